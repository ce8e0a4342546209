// 3x3 convolutions of fp32 maps by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: a tile of 6x6 input pixels d and a filter g
// give 4x4 output pixels A^T [(G g G^T) * (B^T d B)] A. Summed over channels, the product at each of the 36 positions
// is a matrix product of its own.
#pragma once

#include "sampler.h"


namespace posewarp::cpu
{

// (batch, inChannels, height, width) to (batch, outChannels, height, width): stride 1, one pixel of zeros around.
struct ConvSizes
{
    int64_t batch, inChannels, outChannels, height, width;
};

// What is added to each output channel, null for nothing, and whether negative results become zero then.
struct Ending
{
    float const* bias;
    bool relu;
};

// Floats that the transformed weights of such a convolution take: four times what the weights do, rounded up.
size_t countTransformed(int64_t inChannels, int64_t outChannels);

// weights (outChannels, inChannels, 3, 3) to what winogradConv multiplies by; done once for all calls.
void transformWeights(float const* weights, int64_t inChannels, int64_t outChannels, float* transformed);

// output = ending(conv(input, weights)). POSEWARP_OK or what went wrong. Never throws.
int winogradConv(float const* input, float const* transformed, Ending const& ending, float* output,
    ConvSizes const& sizes, ParallelFor const& parallel) noexcept;

// The three steps for one instruction set. Tiles of the output are counted along rows; a chunk is some rows of tiles.
struct Chunk
{
    int64_t firstRow, rows, columns; // of tiles
    int64_t tiles;                   // rows * columns, rounded up to whole vectors

    // Floats of one place in a tile, for all tiles of a channel and the row below them, written in whole vectors.
    int64_t run(int64_t lanes) const
    {
        return (rows + 1) * columns + lanes;
    }

    // Floats of a row of pixels with the zeros around it, read in whole vectors.
    int64_t line(int64_t lanes) const
    {
        return 4 * (columns + 1 + lanes);
    }

    // Floats of scratch that the transformation of one channel takes, either way.
    int64_t scratch(int64_t lanes) const
    {
        return 4 * 6 * run(lanes) + lanes + line(lanes); // of the input; the output's 4 * 4 * tiles are fewer
    }

    // Floats between two positions of the transformed maps. One cache line more than they fill: multiples of 4 KiB
    // would put all 36 positions into one set of the first cache.
    int64_t stride(int64_t channels) const
    {
        return channels * tiles + 16;
    }
};

struct WinogradKernels
{
    char const* name;
    int64_t lanes; // tiles in a vector
    int64_t rows;  // output channels that are summed at a time; transformed weights lie in blocks of so many

    // One channel of the input, (height, width), to its place in `transformed`: 36 matrices of (inChannels, tiles).
    void (*transformInput)(float const* plane, ConvSizes const& sizes, Chunk const& chunk, int64_t channel,
        float* scratch, float* transformed);

    // product (outChannels, tiles) = weights (outChannels, inChannels) * transformed (inChannels, tiles), for the blocks
    // of output channels [first, last) at one position.
    void (*multiply)(float const* weights, float const* transformed, float* product, int64_t inChannels,
        int64_t tiles, int64_t first, int64_t last);

    // One channel of the 36 products to its pixels of the output, (height, width).
    void (*transformOutput)(float const* products, ConvSizes const& sizes, Chunk const& chunk, int64_t channel,
        Ending const& ending, float* scratch, float* plane);
};

extern WinogradKernels const kWINOGRAD_PORTABLE;
#if defined(__x86_64__)
extern WinogradKernels const kWINOGRAD_AVX2, kWINOGRAD_AVX512;
#endif

} // namespace posewarp::cpu
