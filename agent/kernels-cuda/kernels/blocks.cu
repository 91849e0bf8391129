// Weights in blocks, as the host has laid them out anew: of each run of 32 neighbouring weights, the
// low bits of its codes, the bits above, and what scales it, each in a plane of its own, so that
// neighbouring threads read neighbouring bytes.
//
// The host says by definitions how a format lies: LOW (bits of a code in the low plane: 0, 4 or 8),
// HIGH2 and HIGH1 (whether two bits, and one, lie above), OFFSET (what is taken from a code), TABLE
// (whether nibbles choose from the integers of IQ4_NL, 1, or from those of FP4, 2), SCALES (below).

#define HALF 0           // f16 d for each run
#define HALF_PAIR 1      // f16 d, f16 m for each run: w = d q + m
#define FACTORS 2        // u8 s, u8 t for each run; f16 d, f16 min for eight: w = d s q - min t
#define NIBBLES 3        // the same for each half of a run, in nibbles
#define SIGNED_HALVES 4  // i8 s for each half of a run; f16 d for eight runs: w = d s q
#define SIGNED 5         // i8 s for each run; f16 d for eight runs
#define EXPONENT 6       // u8 e for each run: w = 2^(e - 128) q

#define HALVES (SCALES == NIBBLES || SCALES == SIGNED_HALVES ? 2 : 1)
#define HAS_MIN (SCALES == HALF_PAIR || SCALES == FACTORS || SCALES == NIBBLES)
#define LOWS (LOW == 8 ? 2 : 1)

// What memory holds of one run.
struct Raw {
    uint4 low[LOWS];
    uint2 high2;
    u32 high1;
    u32 factors;
    u32 super;
};

DEVICE Raw load(const Weights& w, u32 output, u32 run, u32 runs) {
    Raw raw;
    u64 at = (u64)output * runs + run;
    if (LOW == 4) raw.low[0] = stream16(w.low + at * 16);
    if (LOW == 8) {
        raw.low[0] = stream16(w.low + ((u64)output * runs * 2 + run) * 16);
        raw.low[LOWS - 1] = stream16(w.low + ((u64)output * runs * 2 + runs + run) * 16);
    }
    if (HIGH2) raw.high2 = stream8(w.high2 + at * 8);
    if (HIGH1) raw.high1 = __ldg((const u32*)w.high1 + at);
    if (SCALES == HALF_PAIR) raw.factors = __ldg((const u32*)w.factors + at);
    if (SCALES == SIGNED || SCALES == EXPONENT) raw.factors = __ldg(w.factors + at);
    if (SCALES == HALF || SCALES == FACTORS || SCALES == NIBBLES || SCALES == SIGNED_HALVES)
        raw.factors = __ldg((const u16*)w.factors + at);
    u64 super = (u64)output * (runs / 8) + run / 8;
    if (SCALES == FACTORS || SCALES == NIBBLES) raw.super = __ldg((const u32*)w.supers + super);
    if (SCALES == SIGNED_HALVES || SCALES == SIGNED)
        raw.super = __ldg((const u16*)w.supers + super);
    return raw;
}

// The bytes that four nibbles choose from a table of sixteen.
DEVICE u32 choose(u32 nibbles) {
    const u32 t0 = TABLE == 1 ? 0xbfad9881 : 0x03020100;
    const u32 t1 = TABLE == 1 ? 0xf6eaddcf : 0x0c080604;
    const u32 t2 = TABLE == 1 ? 0x26190d01 : 0xfdfeff00;
    const u32 t3 = TABLE == 1 ? 0x71594535 : 0xf4f8fafc;
    u32 below = __byte_perm(t0, t1, nibbles & 0x7777);
    u32 above = __byte_perm(t2, t3, nibbles & 0x7777);
    return __byte_perm(below, above, 0x3210 | ((nibbles >> 1) & 0x4444));
}

// The codes of a run, in bytes, before OFFSET is taken from them.
DEVICE void codes(const Raw& raw, u32 c[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) c[j] = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (LOW == 8) {
            c[j] = word(raw.low[0], j);
            c[j + 4] = word(raw.low[LOWS - 1], j);
        } else if (LOW == 4) {
            u32 nibbles = word(raw.low[0], j);
            c[2 * j] = TABLE ? choose(nibbles & 0xffff) : nibbles & 0x0f0f0f0f;
            c[2 * j + 1] = TABLE ? choose(nibbles >> 16) : (nibbles >> 4) & 0x0f0f0f0f;
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (HIGH2) {
            u32 both = j < 4 ? raw.high2.x : raw.high2.y;
            c[j] |= ((both >> (2 * (j % 4))) & 0x03030303) << LOW;
        }
        if (HIGH1) c[j] |= ((raw.high1 >> j) & 0x01010101) << (LOW + 2 * HIGH2);
    }
}

// Takes OFFSET from four codes, which are below 128.
DEVICE u32 centred(u32 c) {
    const u32 offset = OFFSET * 0x01010101u;
    return OFFSET ? ((c | 0x80808080) - offset) ^ 0x80808080 : c;
}

// Scale and minimum of each half of a run, or of the run.
DEVICE void scales(const Raw& raw, float s[HALVES], float m[HALVES]) {
    u32 f = raw.factors;
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        m[half] = 0.0f;
        u32 byte = (f >> (8 * half)) & 255;
        if (SCALES == HALF) s[half] = from_f16((u16)f);
        if (SCALES == HALF_PAIR) {
            s[half] = from_f16((u16)f);
            m[half] = -from_f16((u16)(f >> 16));
        }
        if (SCALES == FACTORS) {
            s[half] = from_f16((u16)raw.super) * (float)(f & 255);
            m[half] = from_f16((u16)(raw.super >> 16)) * (float)(f >> 8);
        }
        if (SCALES == NIBBLES) {
            s[half] = from_f16((u16)raw.super) * (float)(byte & 15);
            m[half] = from_f16((u16)(raw.super >> 16)) * (float)(byte >> 4);
        }
        if (SCALES == SIGNED_HALVES || SCALES == SIGNED)
            s[half] = from_f16((u16)raw.super) * (float)(i8)byte;
        if (SCALES == EXPONENT)
            s[half] = f == 0 ? __uint_as_float(1u << 21)
                    : f == 255 ? __uint_as_float(0x7fc00000) : __uint_as_float(f << 23) * 0.5f;
    }
}

// out[i] = table[ids[i]]; a block for each row.
ENTRY embed(Weights w, const u32* ids, float* out, u32 runs) {
    BEGIN;
    u32 row = ids[blockIdx.x];
    u32 lane = threadIdx.x % 32;
    for (u32 run = threadIdx.x / 32; run < runs; run += blockDim.x / 32) {
        Raw raw = load(w, row, run, runs);
        u32 c[8];
        codes(raw, c);
        u32 four = 0;
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (lane / 4 == j) four = centred(c[j]);
        float s[HALVES], m[HALVES];
        scales(raw, s, m);
        float scale = lane < 16 ? s[0] : s[HALVES - 1];
        float min = lane < 16 ? m[0] : m[HALVES - 1];
        float code = (float)(i8)(four >> (8 * (lane % 4)));
        out[((u64)blockIdx.x * runs + run) * 32 + lane] = __fadd_rn(__fmul_rn(code, scale), -min);
    }
}

// What stands beside 32 rounded activations: the scale, and it times their sum, as Q8_1 rounds that
// where weights have an offset.
DEVICE float scale_of(uint2 block) { return from_f16((u16)block.x); }
DEVICE float scaled_sum(uint2 block) { return from_f16((u16)(block.x >> 16)); }
DEVICE int low_sum(uint2 block) { return (int)(short)(block.y & 0xffff); }
DEVICE int high_sum(uint2 block) { return (int)block.y >> 16; }

// Few rows: a warp for OUT outputs, a thread for each run, whose next is on its way while one is
// multiplied.
template <int ROWS, int OUT>
DEVICE void few(const Product& own, const u8* x, const uint2* blocks, u32 rows, u32 runs) {
    const Weights& w = own.weights;
    float* out = own.out;
    u32 lane = threadIdx.x % 32, outputs = own.outputs;
    u32 first = ((blockIdx.x - own.first) * (blockDim.x / 32) + threadIdx.x / 32) * OUT;
    if (first >= outputs) return;
    float sums[OUT][ROWS];
#pragma unroll
    for (int o = 0; o < OUT; o++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[o][r] = 0.0f;
    Raw raw[OUT], next[OUT];
    if (lane < runs) {
#pragma unroll
        for (int o = 0; o < OUT; o++) raw[o] = load(w, min(first + o, outputs - 1), lane, runs);
    }
    // Weights do not change: their first ones are on their way before the activations are ready.
    BEGIN;
    for (u32 run = lane; run < runs; run += 32) {
        if (run + 32 < runs) {
#pragma unroll
            for (int o = 0; o < OUT; o++)
                next[o] = load(w, min(first + o, outputs - 1), run + 32, runs);
        }
        u32 c[OUT][8];
        float s[OUT][HALVES], m[OUT][HALVES];
#pragma unroll
        for (int o = 0; o < OUT; o++) {
            codes(raw[o], c[o]);
            scales(raw[o], s[o], m[o]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            // Rows that there are not are multiplied as the last one.
            u64 at = (u64)(ROWS == 1 ? 0 : min(r, (int)rows - 1)) * runs + run;
            uint4 x0 = ((const uint4*)x)[at * 2], x1 = ((const uint4*)x)[at * 2 + 1];
            uint2 block = blocks[at];
            float d = scale_of(block);
            int low = low_sum(block), high = high_sum(block);
#pragma unroll
            for (int o = 0; o < OUT; o++) {
                int a = 0, b = 0;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    a = dot4(c[o][j], word(x0, j), a);
                    b = dot4(c[o][j + 4], word(x1, j), b);
                }
                if (HALVES == 1) {
                    float product = s[o][0] * (float)(a + b - OFFSET * (low + high));
                    if (HAS_MIN && SCALES != HALF_PAIR) product -= m[o][0] * (float)(low + high);
                    sums[o][r] += d * product;
                    if (SCALES == HALF_PAIR) sums[o][r] -= m[o][0] * scaled_sum(block);
                } else {
                    float product = s[o][0] * (float)(a - OFFSET * low);
                    product += s[o][HALVES - 1] * (float)(b - OFFSET * high);
                    if (HAS_MIN)
                        product -= m[o][0] * (float)low + m[o][HALVES - 1] * (float)high;
                    sums[o][r] += d * product;
                }
            }
        }
#pragma unroll
        for (int o = 0; o < OUT; o++) raw[o] = next[o];
    }
#pragma unroll
    for (int o = 0; o < OUT; o++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[o][r]);
            if (lane == 0 && r < rows && first + o < outputs) out[(u64)r * outputs + first + o] = sum;
        }
}

#define FEW(rows_, out_)                                                                   \
    ENTRY __launch_bounds__(256) few_##rows_(const __grid_constant__ Products all,         \
                                             const u8* x, const uint2* blocks, u32 rows,   \
                                             u32 runs) {                                   \
        few<rows_, out_>(own_product(all), x, blocks, rows, runs);                         \
    }
FEW(1, 2)
FEW(2, 2)
FEW(4, 2)
FEW(8, 2)

// Many rows: a block for a tile of TILE outputs and COLS rows, two runs at a time, in shared memory as
// bytes. A row of 64 bytes takes 80, so that the eight rows that a tensor core's operand comes from
// lie in different banks.
#define TILE 128
#define STEP_RUNS 2
#define PITCH 80
// An integer sum that begins at these bits is, as it stands, the float 1.5 * 2^23 + sum.
#define ONES_BITS 0x4b400000
#define ONES 12582912.0f

template <int COLS>
DEVICE void many(const Product& own, const u8* x, const uint2* blocks, float* parts, u32 rows,
                 u32 runs) {
    constexpr int TILES = COLS / 16;                  // of eight rows, for each of two columns of warps
    constexpr int CHUNKS = (COLS * 4 + 255) / 256;    // of sixteen bytes of x, for each thread
    __shared__ __align__(16) u8 weights[TILE * PITCH];
    __shared__ __align__(16) u8 inputs[COLS * PITCH];
    __shared__ float2 weight_scales[STEP_RUNS * HALVES][TILE];  // scale, minimum
    __shared__ float2 input_scales[STEP_RUNS * HALVES][COLS];   // scale, scale times sum
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    u32 group = lane / 4, quad = lane % 4;
    const Weights& w = own.weights;
    u32 outputs = own.outputs;
    u32 first_output = (blockIdx.x - own.first) * TILE, first_row = blockIdx.y * COLS;
    u32 warp_output = (warp % 4) * 32, warp_row = (warp / 4) * (COLS / 2);
    float sums[2][TILES][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = 0.0f;

    // The runs that are this block's own.
    u32 share = (runs + gridDim.z * STEP_RUNS - 1) / (gridDim.z * STEP_RUNS) * STEP_RUNS;
    u32 begin = blockIdx.z * share, end = min(runs, begin + share);
    // What this thread brings: a run of an output, sixteen bytes of some rows, a block of a row.
    u32 own_output = thread / STEP_RUNS, own_run = thread % STEP_RUNS;
    Raw raw;
    bool has_run;
    uint4 chunk[CHUNKS];
    uint2 block;
    auto bring = [&](u32 run) {
        has_run = run + own_run < end && first_output + own_output < outputs;
        if (has_run) raw = load(w, first_output + own_output, run + own_run, runs);
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            u32 at = thread + i * 256, row = first_row + at / 4, bytes = run * 32 + at % 4 * 16;
            bool is = at < COLS * 4 && row < rows && bytes < end * 32;
            chunk[i] = is ? *(const uint4*)(x + (u64)row * runs * 32 + bytes) : make_uint4(0, 0, 0, 0);
        }
        u32 row = first_row + thread / STEP_RUNS;
        bool is = thread < COLS * STEP_RUNS && row < rows && run + own_run < end;
        block = is ? blocks[(u64)row * runs + run + own_run] : make_uint2(0, 0);
    };
    BEGIN;
    bring(begin);
    for (u32 run = begin; run < end; run += STEP_RUNS) {
        __syncthreads();
        u32 c[8];
        float s[HALVES], m[HALVES];
        if (has_run) {
            codes(raw, c);
            scales(raw, s, m);
        }
        uint4* to = (uint4*)(weights + own_output * PITCH + own_run * 32);
        to[0] = has_run ? make_uint4(centred(c[0]), centred(c[1]), centred(c[2]), centred(c[3]))
                        : make_uint4(0, 0, 0, 0);
        to[1] = has_run ? make_uint4(centred(c[4]), centred(c[5]), centred(c[6]), centred(c[7]))
                        : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int half = 0; half < HALVES; half++)
            weight_scales[own_run * HALVES + half][own_output] =
                has_run ? make_float2(s[half], m[half]) : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            u32 at = thread + i * 256;
            if (at < COLS * 4) *(uint4*)(inputs + at / 4 * PITCH + at % 4 * 16) = chunk[i];
        }
        if (thread < COLS * STEP_RUNS) {
            float d = scale_of(block);
            float low = d * (float)low_sum(block), high = d * (float)high_sum(block);
            float sum = SCALES == HALF_PAIR ? scaled_sum(block) : low + high;
            input_scales[own_run * HALVES][own_output] = make_float2(d, HALVES == 1 ? sum : low);
            if (HALVES == 2) input_scales[own_run * HALVES + HALVES - 1][own_output] = make_float2(d, high);
        }
        __syncthreads();
        if (run + STEP_RUNS < end) bring(run + STEP_RUNS);
#pragma unroll
        for (int step = 0; step < STEP_RUNS; step++) {
            u32 a[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u8* at = weights + (warp_output + i * 16 + group) * PITCH + step * 32 + quad * 4;
                a[i][0] = *(const u32*)at;
                a[i][1] = *(const u32*)(at + 8 * PITCH);
                a[i][2] = *(const u32*)(at + 16);
                a[i][3] = *(const u32*)(at + 8 * PITCH + 16);
            }
            float2 ws[HALVES][2][2];
#pragma unroll
            for (int half = 0; half < HALVES; half++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float2* at = weight_scales[step * HALVES + half] + warp_output + i * 16 + group;
                    ws[half][i][0] = at[0];
                    ws[half][i][1] = at[8];
                }
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const u8* from = inputs + (warp_row + j * 8 + group) * PITCH + step * 32 + quad * 4;
                u32 b[2] = {*(const u32*)from, *(const u32*)(from + 16)};
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    const float2* at = input_scales[step * HALVES + half] + warp_row + j * 8 + quad * 2;
                    float2 xs[2] = {at[0], at[1]};
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        int c4[4] = {ONES_BITS, ONES_BITS, ONES_BITS, ONES_BITS};
                        if (HALVES == 1)
                            mma_s8_k32(c4, a[i], b);
                        else
                            mma_s8_k16(c4, a[i][2 * half], a[i][2 * half + 1], b[half]);
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            float2 ww = ws[half][i][k / 2], xx = xs[k % 2];
                            float product = __int_as_float(c4[k]) - ONES;
                            sums[i][j][k] = fmaf(product * ww.x, xx.x, sums[i][j][k]);
                            if (HAS_MIN) sums[i][j][k] = fmaf(-ww.y, xx.y, sums[i][j][k]);
                        }
                    }
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
                if (output < outputs && row < rows)
                    result_of(own, parts, rows, row)[output] = sums[i][j][k];
            }
}

#define MANY(cols_)                                                                        \
    ENTRY __launch_bounds__(256, 2) many_##cols_(const __grid_constant__ Products all,     \
                                                 const u8* x, const uint2* blocks,         \
                                                 float* parts, u32 rows, u32 runs) {       \
        many<cols_>(own_product(all), x, blocks, parts, rows, runs);                       \
    }
MANY(32)
MANY(64)
MANY(128)
