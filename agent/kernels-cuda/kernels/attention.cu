// The paged cache, and attention over it: softmax(cap(q * k * scale)) * v.
//
// The host says by definitions what a cache holds: HEAD_DIM, a multiple of eight, and KV, which is 0
// for F16, 1 for F32, 2 for Q8_0. Keys and values each are (layer, block, kv head, token, head_dim);
// of Q8_0 the scales lie apart: (layer, block, kv head, token, groups of 32).

#define GROUP 32
#define GROUPS ((HEAD_DIM + GROUP - 1) / GROUP)
#if KV == 0
typedef u16 stored;
#elif KV == 1
typedef float stored;
#else
typedef i8 stored;
#endif

// Which tokens of a cache's pool a call is about.
struct Cache {
    stored* keys;
    stored* values;
    u16* key_scales;
    u16* value_scales;
    u32 layer, blocks, kv_heads, block_tokens;
};

DEVICE u64 row_of(const Cache& c, u32 block, u32 token, u32 head) {
    return (((u64)c.layer * c.blocks + block) * c.kv_heads + head) * c.block_tokens + token;
}

// Stores row i of k and v at slots[i]: a block for a row's head, a warp for a group of 32, keys where
// blockIdx.z is 0 and values where it is 1.
ENTRY kv_store(const Cache c, const float* k, const float* v, const u32* slots) {
    u32 slot = slots[blockIdx.x], head = blockIdx.y, i = threadIdx.x;
    u64 row = row_of(c, slot / c.block_tokens, slot % c.block_tokens, head);
    const float* from = (blockIdx.z ? v : k) + ((u64)blockIdx.x * c.kv_heads + head) * HEAD_DIM;
    stored* to = (blockIdx.z ? c.values : c.keys) + row * HEAD_DIM;
    float value = i < HEAD_DIM ? from[i] : 0.0f;
#if KV == 2
    float2 scale = byte_scale(warp_max(fabsf(value)));
    if (i < HEAD_DIM) to[i] = (i8)nearest_byte(value * scale.y);
    u16* scales = blockIdx.z ? c.value_scales : c.key_scales;
    if (i % GROUP == 0) scales[row * GROUPS + i / GROUP] = to_f16(scale.x);
#elif KV == 1
    if (i < HEAD_DIM) to[i] = value;
#else
    if (i < HEAD_DIM) to[i] = to_f16(value);
#endif
}

// Eight neighbouring dimensions, `at` the first.
DEVICE void eight(const stored* rows, const u16* scales, u64 row, u32 at, float out[8]) {
    const stored* from = rows + row * HEAD_DIM + at;
#if KV == 0
    uint4 v = __ldg((const uint4*)from);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = from_f16((u16)word(v, i));
        out[2 * i + 1] = from_f16((u16)(word(v, i) >> 16));
    }
#elif KV == 1
    float4 a = __ldg((const float4*)from), b = __ldg((const float4*)from + 1);
    out[0] = a.x; out[1] = a.y; out[2] = a.z; out[3] = a.w;
    out[4] = b.x; out[5] = b.y; out[6] = b.z; out[7] = b.w;
#else
    uint2 v = __ldg((const uint2*)from);
    float d = from_f16(__ldg(scales + row * GROUPS + at / GROUP));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[i] = d * (float)(i8)(v.x >> (8 * i));
        out[i + 4] = d * (float)(i8)(v.y >> (8 * i));
    }
#endif
}

// A call's attention. Spans are four words each: first row, rows, past, where its blocks begin in
// `tables`; items are two: a span and its first line, where line n of a span is query head n % heads of
// the KV head at row n / heads, with `heads` query heads for each KV head.
struct Call {
    const u32* spans;
    const u32* items;
    const u32* tables;
    u32 heads;
    u32 both;     // whether a row attends the tokens behind it too
    u32 window;   // 0 is none
    u32 splits;   // blocks that share the tokens of an item
    float scale;
    float cap;    // 0 is none
};

struct Lines {
    u32 first_row, rows, past, table, line;
};

DEVICE Lines lines_of(const Call& call) {
    const u32* item = call.items + blockIdx.x * 2;
    const u32* span = call.spans + item[0] * 4;
    return {span[0], span[1], span[2], span[3], item[1]};
}

// The tokens that a row sees.
DEVICE uint2 seen(const Call& call, const Lines& l, u32 row) {
    u32 at = l.past + row, len = l.past + l.rows;
    if (!call.both) {
        u32 end = at + 1;
        return make_uint2(call.window && call.window < end ? end - call.window : 0, end);
    }
    if (!call.window) return make_uint2(0, len);
    u32 half = call.window / 2;
    u32 end = len - at - 1 < half ? len : at + half + 1;
    return make_uint2(at > half ? at - half : 0, end);
}

#define LINES (HEAD_DIM > 128 ? 2 : 4)  // what registers hold of queries and sums
#define CHUNKS ((HEAD_DIM + 63) / 64)   // of eight dimensions, for each of eight threads
#define AHEAD 2                         // tokens a thread has in flight
#define LANES 16                        // tokens that a block's groups of eight threads have at once
#define NONE (-1e30f)                   // below every score

// A block of 128 threads for an item, a KV head and a part of the tokens; eight threads for a token.
// Without parts it writes `out`, otherwise sums, largest scores and totals for `merge`.
ENTRY __launch_bounds__(128) attention(const Cache c, const Call call, const float* q, float* out,
                                       float* parts) {
    __shared__ float sums_of[4][LINES][HEAD_DIM];
    __shared__ float most_of[4][LINES], total_of[4][LINES];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = threadIdx.x % 8;
    u32 head = blockIdx.y;
    Lines l = lines_of(call);
    u32 lines = min((u32)LINES, l.rows * call.heads - l.line);
    float queries[LINES][CHUNKS][8], sums[LINES][CHUNKS][8], most[LINES], total[LINES];
    uint2 sees[LINES];
    u32 width = c.kv_heads * call.heads * HEAD_DIM;
#pragma unroll
    for (int n = 0; n < LINES; n++) {
        u32 line = l.line + min((u32)n, lines - 1);
        u32 row = line / call.heads, query_head = head * call.heads + line % call.heads;
        sees[n] = seen(call, l, row);
        const float* from = q + (u64)(l.first_row + row) * width + query_head * HEAD_DIM;
        most[n] = NONE;
        total[n] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                u32 at = (own + chunk * 8) * 8 + i;
                queries[n][chunk][i] = at < HEAD_DIM ? from[at] * call.scale : 0.0f;
                sums[n][chunk][i] = 0.0f;
            }
    }
    // Lines are in the order of their rows: what the first sees begins first, the last's ends last.
    u32 start = sees[0].x, end = sees[LINES - 1].y;
    u32 piece = (end - start + call.splits - 1) / call.splits;
    piece = (piece + LANES - 1) / LANES * LANES;
    u32 first = start + blockIdx.z * piece;
    u32 last = min(end, first + piece);
    const u32* table = call.tables + l.table;
    for (u32 at = first; at < last; at += LANES * AHEAD) {
        float keys[AHEAD][CHUNKS][8], values[AHEAD][CHUNKS][8];
        u32 token[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            token[a] = at + a * LANES + threadIdx.x / 8;
            bool is = token[a] < last;
            u64 row = is ? row_of(c, table[token[a] / c.block_tokens], token[a] % c.block_tokens, head) : 0;
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                u32 dim = (own + chunk * 8) * 8;
                if (is && dim < HEAD_DIM) {
                    eight(c.keys, c.key_scales, row, dim, keys[a][chunk]);
                    eight(c.values, c.value_scales, row, dim, values[a][chunk]);
                } else {
#pragma unroll
                    for (int i = 0; i < 8; i++) keys[a][chunk][i] = values[a][chunk][i] = 0.0f;
                }
            }
        }
#pragma unroll
        for (int n = 0; n < LINES; n++) {
            float score[AHEAD], highest = most[n];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                float product = 0.0f;
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        product = fmaf(queries[n][chunk][i], keys[a][chunk][i], product);
#pragma unroll
                for (int apart = 4; apart > 0; apart /= 2)
                    product += __shfl_xor_sync(~0u, product, apart);
                if (call.cap > 0.0f) product = call.cap * tanhf(product / call.cap);
                bool is = token[a] < last && token[a] >= sees[n].x && token[a] < sees[n].y;
                score[a] = is ? product : NONE;
                highest = fmaxf(highest, score[a]);
            }
            float kept = exp2f((most[n] - highest) * 1.44269504f);
            most[n] = highest;
            total[n] *= kept;
            float weight[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                weight[a] = score[a] > NONE ? exp2f((score[a] - highest) * 1.44269504f) : 0.0f;
                total[n] += weight[a];
            }
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float sum = sums[n][chunk][i] * kept;
#pragma unroll
                    for (int a = 0; a < AHEAD; a++) sum = fmaf(weight[a], values[a][chunk][i], sum);
                    sums[n][chunk][i] = sum;
                }
        }
    }
    // The four groups of a warp, then the four warps.
#pragma unroll
    for (int n = 0; n < LINES; n++) {
        float highest = most[n];
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 8));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 16));
        float kept = exp2f((most[n] - highest) * 1.44269504f);
        total[n] *= kept;
        total[n] += __shfl_xor_sync(~0u, total[n], 8);
        total[n] += __shfl_xor_sync(~0u, total[n], 16);
        if (lane == 0) {
            most_of[warp][n] = highest;
            total_of[warp][n] = total[n];
        }
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float sum = sums[n][chunk][i] * kept;
                sum += __shfl_xor_sync(~0u, sum, 8);
                sum += __shfl_xor_sync(~0u, sum, 16);
                u32 at = (own + chunk * 8) * 8 + i;
                if (lane < 8 && at < HEAD_DIM) sums_of[warp][n][at] = sum;
            }
    }
    __syncthreads();
    for (u32 n = 0; n < lines; n++) {
        float highest = NONE, all = 0.0f, kept[4];
        for (int i = 0; i < 4; i++) highest = fmaxf(highest, most_of[i][n]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            kept[i] = exp2f((most_of[i][n] - highest) * 1.44269504f);
            all += total_of[i][n] * kept[i];
        }
        u32 line = l.line + n, row = line / call.heads, query_head = head * call.heads + line % call.heads;
        float* to = out + (u64)(l.first_row + row) * width + query_head * HEAD_DIM;
        if (call.splits > 1) {
            u64 part = ((u64)blockIdx.x * c.kv_heads + head) * call.splits + blockIdx.z;
            to = parts + (part * LINES + n) * (HEAD_DIM + 2);
            if (threadIdx.x == 0) {
                to[HEAD_DIM] = highest;
                to[HEAD_DIM + 1] = all;
            }
        }
        for (u32 i = threadIdx.x; i < HEAD_DIM; i += 128) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < 4; w++) sum += sums_of[w][n][i] * kept[w];
            to[i] = call.splits > 1 ? sum : sum / all;
        }
    }
}

// The parts of each line together; a block for an item and a KV head.
ENTRY __launch_bounds__(128) merge(const Cache c, const Call call, const float* parts, float* out) {
    u32 head = blockIdx.y;
    Lines l = lines_of(call);
    u32 lines = min((u32)LINES, l.rows * call.heads - l.line);
    u32 width = c.kv_heads * call.heads * HEAD_DIM;
    const float* own =
        parts + ((u64)blockIdx.x * c.kv_heads + head) * call.splits * LINES * (HEAD_DIM + 2);
    for (u32 n = 0; n < lines; n++) {
        float highest = NONE, all = 0.0f;
        for (u32 s = 0; s < call.splits; s++)
            highest = fmaxf(highest, own[(s * LINES + n) * (HEAD_DIM + 2) + HEAD_DIM]);
        for (u32 s = 0; s < call.splits; s++) {
            const float* part = own + (s * LINES + n) * (HEAD_DIM + 2);
            all += part[HEAD_DIM + 1] * exp2f((part[HEAD_DIM] - highest) * 1.44269504f);
        }
        u32 line = l.line + n, row = line / call.heads, query_head = head * call.heads + line % call.heads;
        float* to = out + (u64)(l.first_row + row) * width + query_head * HEAD_DIM;
        for (u32 i = threadIdx.x; i < HEAD_DIM; i += 128) {
            float sum = 0.0f;
            for (u32 s = 0; s < call.splits; s++) {
                const float* part = own + (s * LINES + n) * (HEAD_DIM + 2);
                sum += part[i] * exp2f((part[HEAD_DIM] - highest) * 1.44269504f);
            }
            to[i] = sum / all;
        }
    }
}
