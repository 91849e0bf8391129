// Norms, rotations, activations, sums and copies of rows of f32.

// A list of the host, small enough to travel with the launch.
struct Words {
    u32 word[960];
};

ENTRY put_words(u32* to, const Words words, u32 count) {
    BEGIN;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) to[i] = words.word[i];
}

// out = x / sqrt(mean(x * x) + eps) * weight; a block for each row.
ENTRY rms_norm(const float* x, const float* weight, float* out, u32 cols, float eps) {
    BEGIN;
    __shared__ float room[32];
    const float* row = x + (u64)blockIdx.x * cols;
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) squares += row[i] * row[i];
    float mean = block_sum(squares, room) / cols;
    float scale = 1.0f / sqrtf(mean + eps);
    float* to = out + (u64)blockIdx.x * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] = row[i] * scale * weight[i];
}

// out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias; a block for each row.
ENTRY layer_norm(const float* x, const float* weight, const float* bias, float* out, u32 cols,
                 float eps) {
    BEGIN;
    __shared__ float room[32];
    const float* row = x + (u64)blockIdx.x * cols;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += row[i];
    float mean = block_sum(sum, room) / cols;
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float apart = row[i] - mean;
        squares += apart * apart;
    }
    float scale = 1.0f / sqrtf(block_sum(squares, room) / cols + eps);
    float* to = out + (u64)blockIdx.x * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x)
        to[i] = (row[i] - mean) * scale * weight[i] + bias[i];
}

#define EACH(i, len) \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (u64)gridDim.x * blockDim.x)

ENTRY add(float* x, const float* y, u64 len) {
    BEGIN;
    EACH(i, len) x[i] += y[i];
}

ENTRY scale(float* x, float by, u64 len) {
    BEGIN;
    EACH(i, len) x[i] *= by;
}

ENTRY soft_cap(float* x, float cap, u64 len) {
    BEGIN;
    EACH(i, len) x[i] = cap * tanhf(x[i] / cap);
}

ENTRY gelu(float* x, u64 len) {
    BEGIN;
    EACH(i, len) x[i] = x[i] * 0.5f * erfcf(x[i] * -0.70710678f);
}

ENTRY gated_silu(const float* gate, const float* up, float* out, u64 len) {
    BEGIN;
    EACH(i, len) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

// x (1 + tanh(u)) / 2 is x / (1 + exp(-2 u)).
ENTRY gated_gelu(const float* gate, const float* up, float* out, u64 len) {
    BEGIN;
    EACH(i, len) {
        float x = gate[i];
        float fall = -1.5957691f * x * (1.0f + 0.044715f * x * x);
        out[i] = x / (1.0f + expf(fall)) * up[i];
    }
}

ENTRY add_bias(float* x, const float* bias, u32 cols, u64 len) {
    BEGIN;
    EACH(i, len) x[i] += bias[i % cols];
}

// x[rows[i]] += factors[i] * y[i]; a block for each row. Factors are floats among the words.
ENTRY add_rows(float* x, const float* y, const u32* rows, const u32* factors, u32 cols) {
    BEGIN;
    float* to = x + (u64)rows[blockIdx.x] * cols;
    const float* row = y + (u64)blockIdx.x * cols;
    float factor = __uint_as_float(factors[blockIdx.x]);
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] += factor * row[i];
}

// out[i] = x[rows[i]]; a block for each row.
ENTRY gather_rows(const float* x, float* out, const u32* rows, u32 cols) {
    BEGIN;
    const float* row = x + (u64)rows[blockIdx.x] * cols;
    float* to = out + (u64)blockIdx.x * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] = row[i];
}

// Turns each pair of each head by position * frequency; a block for each row. Pair i is (2 i, 2 i + 1)
// with `apart` 1 and `step` 2, and (i, i + pairs) with `apart` pairs and `step` 1.
ENTRY rope(float* x, const u32* positions, const float* frequencies, u32 pairs, u32 heads,
           u32 head_dim, u32 apart, u32 step, float magnitude) {
    BEGIN;
    float* row = x + (u64)blockIdx.x * heads * head_dim;
    double position = positions[blockIdx.x];
    for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        // In f64 up to the turns that are left over: an f32 angle of thousands of radians is off by
        // more than the sine should be.
        double angle = position * (double)frequencies[pair];
        double turns = rint(angle * 0.15915494309189535);
        float rest = (float)fma(turns, -6.283185307179586, angle);
        float sine, cosine;
        sincosf(rest, &sine, &cosine);
        sine *= magnitude;
        cosine *= magnitude;
        for (u32 head = 0; head < heads; head++) {
            float* a = row + head * head_dim + pair * step;
            float low = a[0], high = a[apart];
            a[0] = low * cosine - high * sine;
            a[apart] = low * sine + high * cosine;
        }
    }
}
