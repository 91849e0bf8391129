// What tensor cores do at best: products of registers, with nothing to read.

#define ROUNDS 256
#define APART 8  // sums that do not wait for each other

#define CEILING(name_, type_, product_, number_)                                    \
    ENTRY __launch_bounds__(256) name_(type_* out) {                                \
        BEGIN;                                                                      \
        u32 a[4], b[2];                                                             \
        type_ c[APART][4];                                                          \
        for (int i = 0; i < 4; i++) a[i] = (threadIdx.x * 7 + i) * number_;         \
        for (int i = 0; i < 2; i++) b[i] = (threadIdx.x * 5 + i) * number_;         \
        _Pragma("unroll") for (int i = 0; i < APART; i++)                           \
            for (int k = 0; k < 4; k++) c[i][k] = 0;                                \
        for (int round = 0; round < ROUNDS; round++)                                \
            _Pragma("unroll") for (int i = 0; i < APART; i++) product_(c[i], a, b); \
        type_ sum = 0;                                                              \
        _Pragma("unroll") for (int i = 0; i < APART; i++)                           \
            for (int k = 0; k < 4; k++) sum += c[i][k];                             \
        out[(u64)blockIdx.x * blockDim.x + threadIdx.x] = sum;                      \
    }

CEILING(s8, int, mma_s8_k32, 0x01010101)
CEILING(f16, float, mma_f16, 0x00010001)
CEILING(bf16, float, mma_bf16, 0x00010001)
