// Activations made ready for a matrix product: rounded to what the weights are multiplied with, in
// rows of whole vectors, of which the rest is zero.

// As Q8_0 and Q8_1 round them. `bytes`: (rows, cols); `blocks`: (rows, cols / 32), of which each has
// the scale and the product of scale and sum as f16, and the sums of both halves as i16. A warp for each
// block of 32.
ENTRY round_q8(const float* x, u8* bytes, uint2* blocks, u64 count) {
    BEGIN;
    u64 block = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (block >= count) return;
    u32 lane = threadIdx.x % 32;
    float value = x[block * 32 + lane];
    float2 scale = byte_scale(warp_max(fabsf(value)));
    int q = nearest_byte(value * scale.y);
    bytes[block * 32 + lane] = (u8)q;
    int sum = q;
    for (int apart = 8; apart > 0; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
    int other = __shfl_sync(~0u, sum, 16);
    if (lane == 0) {
        u32 d = to_f16(scale.x), product = to_f16(__fmul_rn(scale.x, (float)(sum + other)));
        blocks[block] = make_uint2(d | (product << 16), ((u32)sum & 0xffff) | ((u32)other << 16));
    }
}

// As bf16 has them. `out`: (rows, stride); a block for each row.
ENTRY round_bf16(const float* x, u16* out, u32 cols, u32 stride) {
    BEGIN;
    const float* row = x + (u64)blockIdx.x * cols;
    u16* to = out + (u64)blockIdx.x * stride;
    for (u32 i = threadIdx.x; i < stride; i += blockDim.x) to[i] = i < cols ? to_bf16(row[i]) : 0;
}

// As they are. `out`: (rows, stride); a block for each row.
ENTRY copy_f32(const float* x, float* out, u32 cols, u32 stride) {
    BEGIN;
    const float* row = x + (u64)blockIdx.x * cols;
    float* to = out + (u64)blockIdx.x * stride;
    for (u32 i = threadIdx.x; i < stride; i += blockDim.x) to[i] = i < cols ? row[i] : 0.0f;
}

// As two f16: the nearest one and what is left, both under a power of two for the row that keeps them
// within the range of f16. `out`: (rows, 2, stride); `scales`: (rows), what undoes that. A block for
// each row.
ENTRY split_f16(const float* x, u16* out, float* scales, u32 cols, u32 stride) {
    BEGIN;
    __shared__ float room[32];
    const float* row = x + (u64)blockIdx.x * cols;
    float most = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) most = fmaxf(most, fabsf(row[i]));
    most = block_max(most, room);
    // The largest value comes to lie from 2^14 on, so that the rest of the smaller ones is not lost
    // below f16's smallest number.
    int exponent = (int)(__float_as_uint(most) >> 23);
    int shift = exponent == 0 || exponent == 255 ? 0 : 141 - exponent;
    shift = shift > 120 ? 120 : shift < -120 ? -120 : shift;
    float up = __uint_as_float((u32)(127 + shift) << 23);
    u16* high = out + (u64)blockIdx.x * 2 * stride;
    u16* low = high + stride;
    for (u32 i = threadIdx.x; i < stride; i += blockDim.x) {
        float value = i < cols ? row[i] * up : 0.0f;
        u16 h = to_f16(value);
        high[i] = h;
        low[i] = to_f16(value - from_f16(h));
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = __uint_as_float((u32)(127 - shift) << 23);
}
