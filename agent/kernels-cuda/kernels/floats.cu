// Weights in floats, in rows of whole vectors of sixteen bytes, of which the rest is zero.
//
// The host says by a definition which: KIND is 0 for F32, 1 for F16, 2 for BF16.

#define F32 0
#define F16 1
#define BF16 2

#if KIND == F32
typedef float stored;
#else
typedef u16 stored;
#endif
#define LANE (16 / sizeof(stored))  // values in sixteen bytes

DEVICE float value(stored w) {
#if KIND == F32
    return w;
#elif KIND == F16
    return from_f16(w);
#else
    return from_bf16(w);
#endif
}

// out[i] = table[ids[i]]; a block for each row.
ENTRY embed(const stored* table, const u32* ids, float* out, u32 cols, u32 stride) {
    BEGIN;
    const stored* row = table + (u64)ids[blockIdx.x] * stride;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x)
        out[(u64)blockIdx.x * cols + i] = value(row[i]);
}

DEVICE void unpack(const uint4& v, float w[LANE]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 bits = word(v, i);
#if KIND == F32
        w[i] = __uint_as_float(bits);
#else
        w[2 * i] = value((u16)bits);
        w[2 * i + 1] = value((u16)(bits >> 16));
#endif
    }
}

// Few rows: a warp for two outputs, whose next vectors are on their way while one is multiplied.
// `x`: (rows, stride), as floats, or where weights are BF16 as those.
#if KIND == BF16
typedef u16 input;
#else
typedef float input;
#endif

DEVICE void inputs_of(const input* x, float v[LANE]) {
#if KIND == BF16
    unpack(*(const uint4*)x, v);
#else
#pragma unroll
    for (int i = 0; i < LANE / 4; i++) {
        float4 four = ((const float4*)x)[i];
        v[4 * i] = four.x;
        v[4 * i + 1] = four.y;
        v[4 * i + 2] = four.z;
        v[4 * i + 3] = four.w;
    }
#endif
}

template <int ROWS>
DEVICE void few(const Product& own, const input* x, u32 rows, u32 stride) {
    const int OUT = 2, AHEAD = 2;
    const stored* w = (const stored*)own.weights.low;
    float* out = own.out;
    u32 lane = threadIdx.x % 32, vectors = stride / LANE, outputs = own.outputs;
    u32 first = ((blockIdx.x - own.first) * (blockDim.x / 32) + threadIdx.x / 32) * OUT;
    if (first >= outputs) return;
    const stored* row[OUT];
    float sums[OUT][ROWS];
#pragma unroll
    for (int o = 0; o < OUT; o++) {
        row[o] = w + (u64)min(first + o, outputs - 1) * stride;
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[o][r] = 0.0f;
    }
    uint4 raw[AHEAD][OUT];
#pragma unroll
    for (int ahead = 0; ahead < AHEAD; ahead++)
#pragma unroll
        for (int o = 0; o < OUT; o++)
            if (lane + ahead * 32 < vectors)
                raw[ahead][o] = stream16(row[o] + (lane + ahead * 32) * LANE);
    // Weights do not change: their first ones are on their way before the activations are ready.
    BEGIN;
    for (u32 at = lane; at < vectors; at += 32) {
        float v[OUT][LANE];
#pragma unroll
        for (int o = 0; o < OUT; o++) {
            unpack(raw[0][o], v[o]);
#pragma unroll
            for (int ahead = 1; ahead < AHEAD; ahead++) raw[ahead - 1][o] = raw[ahead][o];
            if (at + AHEAD * 32 < vectors)
                raw[AHEAD - 1][o] = stream16(row[o] + (at + AHEAD * 32) * LANE);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            // Rows that there are not are multiplied as the last one.
            float y[LANE];
            inputs_of(x + (u64)(ROWS == 1 ? 0 : min(r, (int)rows - 1)) * stride + at * LANE, y);
#pragma unroll
            for (int o = 0; o < OUT; o++)
#pragma unroll
                for (int i = 0; i < LANE; i++) sums[o][r] = fmaf(v[o][i], y[i], sums[o][r]);
        }
    }
#pragma unroll
    for (int o = 0; o < OUT; o++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[o][r]);
            if (lane == 0 && r < rows && first + o < outputs) out[(u64)r * outputs + first + o] = sum;
        }
}

#define FEW(rows_)                                                                         \
    ENTRY __launch_bounds__(256) few_##rows_(const __grid_constant__ Products all,         \
                                             const input* x, u32 rows, u32 stride) {       \
        few<rows_>(own_product(all), x, rows, stride);                                     \
    }
FEW(1)
FEW(2)
FEW(4)
FEW(8)

#if KIND == F32
// Many rows, without tensor cores, which would round: a block for a tile of 64 outputs and 64 rows,
// a thread for four of each.
ENTRY __launch_bounds__(256) many_64(const __grid_constant__ Products all, const float* x,
                                     const float* scales, float* parts, u32 rows, u32 stride) {
    BEGIN;
    const Product& own = own_product(all);
    const float* w = (const float*)own.weights.low;
    float* out = own.out;
    u32 outputs = own.outputs;
    __shared__ float weights[16][65], inputs[16][65];
    u32 across = threadIdx.x % 16, down = threadIdx.x / 16;
    u32 first_output = (blockIdx.x - own.first) * 64, first_row = blockIdx.y * 64;
    float sums[4][4] = {};
    for (u32 k = 0; k < stride; k += 16) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 line = down + i * 16, output = first_output + line, row = first_row + line;
            bool in = k + across < stride;
            weights[across][line] = in && output < outputs ? w[(u64)output * stride + k + across] : 0.0f;
            inputs[across][line] = in && row < rows ? x[(u64)row * stride + k + across] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++)
#pragma unroll
            for (int a = 0; a < 4; a++)
#pragma unroll
                for (int b = 0; b < 4; b++)
                    sums[a][b] = fmaf(weights[i][across + a * 16], inputs[i][down + b * 16], sums[a][b]);
    }
#pragma unroll
    for (int a = 0; a < 4; a++)
#pragma unroll
        for (int b = 0; b < 4; b++) {
            u32 output = first_output + across + a * 16, row = first_row + down + b * 16;
            if (output < outputs && row < rows) out[(u64)row * outputs + output] = sums[a][b];
        }
}
#else
// Many rows: a block for a tile of 128 outputs and COLS rows, 32 columns at a time. F32 inputs of F16
// weights are two F16, high and low, which are multiplied one after the other.
#define PARTS (KIND == F16 ? 2 : 1)
#define TILE 128
#define PITCH 80  // a row of 64 bytes, so that eight rows lie in different banks

template <int COLS>
DEVICE void many(const Product& own, const u16* x, const float* scales, float* parts, u32 rows,
                 u32 stride) {
    const u16* w = (const u16*)own.weights.low;
    u32 outputs = own.outputs;
    constexpr int TILES = COLS / 16;
    constexpr int CHUNKS = (COLS * 4 + 255) / 256;
    __shared__ __align__(16) u8 weights[TILE * PITCH];
    __shared__ __align__(16) u8 inputs[PARTS][COLS * PITCH];
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    u32 group = lane / 4, quad = lane % 4;
    u32 first_output = (blockIdx.x - own.first) * TILE, first_row = blockIdx.y * COLS;
    u32 warp_output = (warp % 4) * 32, warp_row = (warp / 4) * (COLS / 2);
    float sums[2][TILES][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = 0.0f;
    // The columns that are this block's own.
    u32 share = (stride + gridDim.z * 32 - 1) / (gridDim.z * 32) * 32;
    u32 begin = blockIdx.z * share, end = min(stride, begin + share);
    uint4 part_of[2], chunk[PARTS][CHUNKS];
    auto bring = [&](u32 k) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 at = thread + i * 256, output = first_output + at / 4, col = k + at % 4 * 8;
            bool is = output < outputs && col < end;
            part_of[i] = is ? stream16(w + (u64)output * stride + col) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                u32 at = thread + i * 256, row = first_row + at / 4, col = k + at % 4 * 8;
                bool is = at < COLS * 4 && row < rows && col < end;
                const u16* from = x + ((u64)row * PARTS + part) * stride + col;
                chunk[part][i] = is ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
            }
    };
    BEGIN;
    bring(begin);
    for (u32 k = begin; k < end; k += 32) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 at = thread + i * 256;
            *(uint4*)(weights + at / 4 * PITCH + at % 4 * 16) = part_of[i];
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                u32 at = thread + i * 256;
                if (at < COLS * 4) *(uint4*)(inputs[part] + at / 4 * PITCH + at % 4 * 16) = chunk[part][i];
            }
        __syncthreads();
        if (k + 32 < end) bring(k + 32);
#pragma unroll
        for (int step = 0; step < 2; step++) {
            u32 a[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u8* at = weights + (warp_output + i * 16 + group) * PITCH + step * 32 + quad * 4;
                a[i][0] = *(const u32*)at;
                a[i][1] = *(const u32*)(at + 8 * PITCH);
                a[i][2] = *(const u32*)(at + 16);
                a[i][3] = *(const u32*)(at + 8 * PITCH + 16);
            }
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    const u8* at = inputs[part] + (warp_row + j * 8 + group) * PITCH + step * 32 + quad * 4;
                    u32 b[2] = {*(const u32*)at, *(const u32*)(at + 16)};
#pragma unroll
                    for (int i = 0; i < 2; i++) {
#if KIND == F16
                        mma_f16(sums[i][j], a[i], b);
#else
                        mma_bf16(sums[i][j], a[i], b);
#endif
                    }
                }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                u32 output = first_output + warp_output + i * 16 + group + k / 2 * 8;
                u32 row = first_row + warp_row + j * 8 + quad * 2 + k % 2;
                if (output >= outputs || row >= rows) continue;
                float scale = KIND == F16 ? scales[row] : 1.0f;
                result_of(own, parts, rows, row)[output] = sums[i][j][k] * scale;
            }
}

#define MANY(cols_)                                                                        \
    ENTRY __launch_bounds__(256, 2) many_##cols_(const __grid_constant__ Products all,     \
                                                 const u16* x, const float* scales,        \
                                                 float* parts, u32 rows, u32 stride) {     \
        many<cols_>(own_product(all), x, scales, parts, rows, stride);                     \
    }
MANY(32)
MANY(64)
MANY(128)
#endif
