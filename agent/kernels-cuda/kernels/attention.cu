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
    BEGIN;
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

// Eight neighbouring dimensions as they are stored.
struct Eight {
#if KV == 0
    uint4 values;
#elif KV == 1
    float4 low, high;
#else
    uint2 values;
    u16 scale;
#endif
};

DEVICE Eight fetch(const stored* rows, const u16* scales, u64 row, u32 at) {
    const stored* from = rows + row * HEAD_DIM + at;
    Eight eight;
#if KV == 0
    eight.values = *(const uint4*)from;
#elif KV == 1
    eight.low = ((const float4*)from)[0];
    eight.high = ((const float4*)from)[1];
#else
    eight.values = *(const uint2*)from;
    eight.scale = scales[row * GROUPS + at / GROUP];
#endif
    return eight;
}

DEVICE void unpack(const Eight& eight, float out[8]) {
#if KV == 0
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = from_f16((u16)word(eight.values, i));
        out[2 * i + 1] = from_f16((u16)(word(eight.values, i) >> 16));
    }
#elif KV == 1
    float4 a = eight.low, b = eight.high;
    out[0] = a.x; out[1] = a.y; out[2] = a.z; out[3] = a.w;
    out[4] = b.x; out[5] = b.y; out[6] = b.z; out[7] = b.w;
#else
    float d = from_f16(eight.scale);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[i] = d * (float)(i8)(eight.values.x >> (8 * i));
        out[i + 4] = d * (float)(i8)(eight.values.y >> (8 * i));
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

#define PADDED (CHUNKS * 64)            // dimensions with those that threads have in vain
#define LOG2_E 1.44269504f


// A block of 128 threads for an item, a KV head and a part of the tokens; eight threads for a token,
// whose next tokens are on their way while they look at some. Scores are logarithms to base two. Without
// parts it writes `out`, otherwise sums, largest scores and totals for `merge`.
ENTRY __launch_bounds__(128) attention(const Cache c, const Call call, const float* q, float* out,
                                       float* parts) {
    BEGIN;
    __shared__ __align__(16) float queries[LINES][PADDED];
    __shared__ float sums_of[4][LINES][HEAD_DIM];
    __shared__ float most_of[4][LINES], total_of[4][LINES];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = threadIdx.x % 8;
    u32 head = blockIdx.y;
    Lines l = lines_of(call);
    u32 lines = min((u32)LINES, l.rows * call.heads - l.line);
    float sums[LINES][CHUNKS][8], most[LINES], total[LINES];
    uint2 sees[LINES];
    u32 width = c.kv_heads * call.heads * HEAD_DIM;
#pragma unroll
    for (int n = 0; n < LINES; n++) {
        u32 line = l.line + min((u32)n, lines - 1);
        u32 row = line / call.heads, query_head = head * call.heads + line % call.heads;
        sees[n] = seen(call, l, row);
        const float* from = q + (u64)(l.first_row + row) * width + query_head * HEAD_DIM;
        for (u32 i = threadIdx.x; i < PADDED; i += 128)
            queries[n][i] = i < HEAD_DIM ? from[i] * call.scale : 0.0f;
        most[n] = NONE;
        total[n] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
            for (int i = 0; i < 8; i++) sums[n][chunk][i] = 0.0f;
    }
    __syncthreads();
    // Lines are in the order of their rows: what the first sees begins first, the last's ends last.
    u32 start = sees[0].x, end = sees[LINES - 1].y;
    u32 piece = (end - start + call.splits - 1) / call.splits;
    piece = (piece + LANES - 1) / LANES * LANES;
    u32 first = start + blockIdx.z * piece;
    u32 last = min(end, first + piece);
    const u32* table = call.tables + l.table;
    Eight keys[AHEAD][CHUNKS], values[AHEAD][CHUNKS];
    // Tokens that are not there, and dimensions, count as zeros.
    auto bring = [&](u32 at) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            u32 token = at + a * LANES + threadIdx.x / 8;
            u64 row = token < last ? row_of(c, table[token / c.block_tokens], token % c.block_tokens, head) : 0;
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                u32 dim = (own + chunk * 8) * 8;
                keys[a][chunk] = values[a][chunk] = Eight{};
                if (token < last && dim < HEAD_DIM) {
                    keys[a][chunk] = fetch(c.keys, c.key_scales, row, dim);
                    values[a][chunk] = fetch(c.values, c.value_scales, row, dim);
                }
            }
        }
    };
    if (first < last) bring(first);
    for (u32 at = first; at < last; at += LANES * AHEAD) {
        float key[AHEAD][CHUNKS][8], value[AHEAD][CHUNKS][8];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                unpack(keys[a][chunk], key[a][chunk]);
                unpack(values[a][chunk], value[a][chunk]);
            }
        bring(at + LANES * AHEAD);
#pragma unroll
        for (int n = 0; n < LINES; n++) {
            float score[AHEAD] = {};
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                const float4* from = (const float4*)(queries[n] + (own + chunk * 8) * 8);
                float4 x = from[0], y = from[1];
                float query[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
                for (int a = 0; a < AHEAD; a++)
#pragma unroll
                    for (int i = 0; i < 8; i++) score[a] = fmaf(query[i], key[a][chunk][i], score[a]);
            }
            float highest = most[n];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
#pragma unroll
                for (int apart = 4; apart > 0; apart /= 2)
                    score[a] += __shfl_xor_sync(~0u, score[a], apart);
                if (call.cap > 0.0f) score[a] = call.cap * tanhf(score[a] / call.cap);
                u32 token = at + a * LANES + threadIdx.x / 8;
                bool is = token < last && token >= sees[n].x && token < sees[n].y;
                score[a] = is ? score[a] * LOG2_E : NONE;
                highest = fmaxf(highest, score[a]);
            }
            if (__any_sync(~0u, highest > most[n])) {
                float kept = power_of_two(most[n] - highest);
                most[n] = highest;
                total[n] *= kept;
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
                    for (int i = 0; i < 8; i++) sums[n][chunk][i] *= kept;
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                float weight = score[a] > NONE ? power_of_two(score[a] - highest) : 0.0f;
                total[n] += weight;
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        sums[n][chunk][i] = fmaf(weight, value[a][chunk][i], sums[n][chunk][i]);
            }
        }
    }
    // The four groups of a warp, then the four warps.
#pragma unroll
    for (int n = 0; n < LINES; n++) {
        float highest = most[n];
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 8));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 16));
        float kept = power_of_two(most[n] - highest);
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
#pragma unroll
        for (int i = 0; i < 4; i++) highest = fmaxf(highest, most_of[i][n]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            kept[i] = power_of_two(most_of[i][n] - highest);
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

// The parts of each line together; a block for an item and a KV head, a warp for a line.
ENTRY __launch_bounds__(128) merge(const Cache c, const Call call, const float* parts, float* out) {
    BEGIN;
    u32 head = blockIdx.y, n = threadIdx.x / 32, lane = threadIdx.x % 32;
    Lines l = lines_of(call);
    if (n >= LINES || n >= l.rows * call.heads - l.line) return;
    const float* own =
        parts + (((u64)blockIdx.x * c.kv_heads + head) * call.splits * LINES + n) * (HEAD_DIM + 2);
    const u32 apart = LINES * (HEAD_DIM + 2);
    float highest = NONE, all = 0.0f;
    for (u32 s = lane; s < call.splits; s += 32) highest = fmaxf(highest, own[s * apart + HEAD_DIM]);
    highest = warp_max(highest);
    for (u32 s = lane; s < call.splits; s += 32) {
        const float* part = own + s * apart + HEAD_DIM;
        all += part[1] * power_of_two(part[0] - highest);
    }
    all = warp_sum(all);
    float sums[(HEAD_DIM + 31) / 32] = {};
#pragma unroll 4
    for (u32 s = 0; s < call.splits; s++) {
        const float* part = own + s * apart;
        float weight = power_of_two(part[HEAD_DIM] - highest);
#pragma unroll
        for (int i = 0; i < (HEAD_DIM + 31) / 32; i++)
            if (lane + i * 32 < HEAD_DIM) sums[i] = fmaf(part[lane + i * 32], weight, sums[i]);
    }
    u32 line = l.line + n, row = line / call.heads, query_head = head * call.heads + line % call.heads;
    u32 width = c.kv_heads * call.heads * HEAD_DIM;
    float* to = out + (u64)(l.first_row + row) * width + query_head * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < (HEAD_DIM + 31) / 32; i++)
        if (lane + i * 32 < HEAD_DIM) to[lane + i * 32] = sums[i] / all;
}
