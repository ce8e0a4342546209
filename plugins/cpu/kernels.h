// The inner loops of the CPU sampler, built once for each instruction set.
#pragma once

#include "sampler.h"

namespace posewarp::cpu
{

// Channels are taken in blocks of so many; the last block of an image may have fewer.
constexpr int64_t kLANES = 8;

// Ranges are half open. `image` counts the batch, `block` the blocks of channels of one image, `points` the grid points
// of one image, `pixels` the pixels of one channel.
struct Range
{
    int64_t first, last;

    POSEWARP_HOST_DEVICE int64_t count() const
    {
        return last - first;
    }
};

// A stripe's taps are Taps<mode, rank, int32_t>, one a point, with pixels counted from the first pixel of its band.
// A packed band is [1 + pixels][kLANES] floats: first a pixel of zeros, which every tap that lies outside reads as its
// pixel -1, then the pixels, each with its channels side by side.
struct Kernels
{
    char const* name;

    // The taps of a stripe of points; returns the band that they lie in (of at least one pixel), or all pixels if it
    // would be longer than `longest`.
    Range (*locate)(Problem const& problem, int64_t image, Range points, int64_t longest, void* taps);

    void (*pack)(Problem const& problem, int64_t image, int64_t block, Range band, float* packed);

    void (*sample)(Problem const& problem, int64_t image, int64_t block, Range points, void const* taps, float const* packed);

    // All channels of the points straight from the features: for few channels or few points, and huge planes.
    void (*sampleUnpacked)(Problem const& problem, int64_t image, Range points);
};

extern Kernels const kPORTABLE;
#if defined(__x86_64__)
extern Kernels const kAVX2;
#endif

} // namespace posewarp::cpu
