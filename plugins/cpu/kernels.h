// The inner loops of the CPU sampler, built once for each instruction set.
#pragma once

#include "sampler.h"

namespace posewarp::cpu
{

// Channels are taken in blocks of so many; the last block of an image may have fewer.
constexpr int64_t kLANES = 8;

// Ranges are half open. `image` counts the batch, `block` the blocks of channels of one image, `point` the grid points
// of one image, `pixel` the pixels of one channel.
//
// A packed block is [1 + pixels][kLANES] floats: first a pixel of zeros, which every tap that lies outside reads as
// its pixel -1, then the pixels, each with its channels side by side. What a point's taps are in memory is
// Taps<mode, rank, int32_t>; `taps` and `packed` start at the image's first point and at the block's first float.
struct Kernels
{
    char const* name;

    void (*locate)(Problem const& problem, int64_t image, int64_t firstPoint, int64_t lastPoint, void* taps);

    void (*pack)(
        Problem const& problem, int64_t image, int64_t block, int64_t firstPixel, int64_t lastPixel, float* packed);

    void (*sample)(Problem const& problem, int64_t image, int64_t block, int64_t firstPoint, int64_t lastPoint,
        void const* taps, float const* packed);

    // All channels of the points straight from the features: for few channels or few points, and huge planes.
    void (*sampleUnpacked)(Problem const& problem, int64_t image, int64_t firstPoint, int64_t lastPoint);
};

extern Kernels const kPORTABLE;
#if defined(__x86_64__)
extern Kernels const kAVX2;
#endif

} // namespace posewarp::cpu
