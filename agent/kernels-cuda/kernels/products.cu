// Matrices of one format that the same activations are multiplied with, in one launch: their tiles
// stand one behind the other in the first dimension of the grid.

struct Weights {
    // Of floats there is one plane. Of blocks: (outputs, 16 bytes of each run), or of 8 bits (outputs,
    // half, 16 bytes of each run).
    const u8* low;
    const u8* high2;    // (outputs, runs) of 8 bytes
    const u8* high1;    // (outputs, runs) of 4 bytes
    const u8* factors;  // (outputs, runs)
    const u8* supers;   // (outputs, runs / 8)
};

struct Product {
    Weights weights;
    float* out;   // (rows, outputs)
    u32 outputs;
    u32 first;    // the first block of the grid that is its own
    u32 before;   // outputs of those before it
    u32 all;      // outputs of all together
};

struct Products {
    Product each[4];
};

DEVICE const Product& own_product(const Products& all) {
    int own = 0;
#pragma unroll
    for (int i = 1; i < 4; i++)
        if (blockIdx.x >= all.each[i].first) own = i;
    return all.each[own];
}

// Where a block's result goes: to the output, or where several blocks share the columns, to the parts,
// (blocks, rows, outputs of all), which `sum_parts` adds up.
DEVICE float* result_of(const Product& own, float* parts, u32 rows, u32 row) {
    if (gridDim.z == 1) return own.out + (u64)row * own.outputs;
    return parts + ((u64)blockIdx.z * rows + row) * own.all + own.before;
}

// A block for some outputs of a product's row.
ENTRY sum_parts(const __grid_constant__ Products all, const float* parts, u32 rows, u32 splits) {
    BEGIN;
    const Product& own = all.each[blockIdx.y];
    u32 output = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.z;
    if (output >= own.outputs) return;
    const float* part = parts + (u64)row * own.all + own.before + output;
    float sum = 0.0f;
    for (u32 split = 0; split < splits; split++) sum += part[(u64)split * rows * own.all];
    own.out[(u64)row * own.outputs + output] = sum;
}
