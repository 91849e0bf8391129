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
