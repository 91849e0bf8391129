// What every kernel may use: types, halves, loads, sums over warps and blocks, tensor cores.
// Compiled without any header: what NVRTC knows by itself, and PTX.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define ENTRY extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

// f16 and bf16 are their 16 bits.
DEVICE float from_f16(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE u16 to_f16(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE float from_bf16(u16 h) { return __uint_as_float((u32)h << 16); }

DEVICE u16 to_bf16(float f) {
    u16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Kernels follow each other closely: on GPUs that can do so the next one's blocks come while the last
// of this one still run. Each kernel begins with BEGIN, and nothing that another one writes is read
// before it, nor through the cache that is for what never changes.
#if __CUDA_ARCH__ >= 900
#define BEGIN                                                    \
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); \
    asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define BEGIN
#endif

// Weights are read once: they pass by L1 and are the first to leave L2.
DEVICE uint4 stream16(const void* at) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}

DEVICE uint2 stream8(const void* at) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}

DEVICE u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

DEVICE float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
    return x;
}

DEVICE float warp_max(float x) {
    for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
    return x;
}

// The sum over a block of at most 1024 threads, in all of them. `room` has 32 floats.
DEVICE float block_sum(float x, float* room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? room[threadIdx.x % 32] : 0.0f;
    return warp_sum(x);
}

DEVICE float block_max(float x, float* room) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? room[threadIdx.x % 32] : 0.0f;
    return warp_max(x);
}

// 2^x, to 22 bits.
DEVICE float power_of_two(float x) {
    float out;
    asm("ex2.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Four products of signed bytes, added to `sum`.
DEVICE int dot4(u32 a, u32 b, int sum) {
    int out;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(sum));
    return out;
}

// Tensor cores, `c += a * b`. Of thread `t` of a warp, with `g = t / 4` and `q = t % 4`: `a` holds
// rows `g` and `g + 8` (first and second, third and fourth word) of 32 bytes, at byte `4 q` and at
// byte `16 + 4 q`; `b` columns `g`, at the same bytes; `c` rows `g`, `g`, `g + 8`, `g + 8` and columns
// `2 q`, `2 q + 1`, `2 q`, `2 q + 1`.
DEVICE void mma_s8_k32(int c[4], const u32 a[4], const u32 b[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// As above, of sixteen bytes.
DEVICE void mma_s8_k16(int c[4], u32 a0, u32 a1, u32 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}

DEVICE void mma_f16(float c[4], const u32 a[4], const u32 b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_bf16(float c[4], const u32 a[4], const u32 b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The scale of the bytes nearest to values of which `largest` is furthest from zero, and its
// inverse; the inverse is 0 where the scale has none.
DEVICE float2 byte_scale(float largest) {
    float d = largest / 127.0f;
    float inverse = 1.0f / d;
    return make_float2(d, isinf(inverse) || isnan(inverse) ? 0.0f : inverse);
}

DEVICE int nearest_byte(float x) {
    int q = __float2int_rn(x);
    return q < -128 ? -128 : q > 127 ? 127 : q;
}
