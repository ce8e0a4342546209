/* The C ABI of libposewarp_cpu.so. Never throws, keeps no pointer, may be called from any number of threads. */
#pragma once

#include <stdint.h>

#define POSEWARP_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong; 0 is success. */
enum
{
    POSEWARP_OK = 0,
    POSEWARP_NULL_POINTER = 1,
    POSEWARP_UNKNOWN_DTYPE = 2,
    POSEWARP_BAD_ARGUMENT = 3, /* sizes, mode or padding that GridSample does not know */
    POSEWARP_NO_MEMORY = 4
};

enum
{
    POSEWARP_FP32 = 0,
    POSEWARP_FP16 = 1,
    POSEWARP_BF16 = 2
};

/* The version in setup.cfg, "0.1.0". */
POSEWARP_API const char* posewarp_cpu_version(void);

/* The instructions in use: "avx2" where the CPU has them (and FMA and F16C), else "portable", which the environment
 * variable POSEWARP_CPU_SIMD=portable asks for too. Chosen once, when first needed. */
POSEWARP_API const char* posewarp_cpu_simd(void);

/* Sample features at the positions of a grid, as ONNX GridSample and PyTorch's grid_sample do.
 *
 * features  (batch, channels, [depth,] height, width) of dtype, contiguous
 * grid      (batch, [out_depth,] out_height, out_width, spatial_rank), fp32, normalised to -1..1, x first; contiguous
 * output    (batch, channels, [out_depth,] out_height, out_width) of dtype, the caller's, overlapping neither
 * spatial_rank   2 for images (depth = out_depth = 1) or 3 for volumes
 * mode           0 bilinear (trilinear), 1 nearest, 2 bicubic (images only)
 * padding        0 zeros, 1 border, 2 reflection
 * align_corners  not 0: -1 and 1 are the centres of the outer pixels; 0: their outer edges
 * threads        at most so many; 0: as many as this process may use
 * Position, weights and sum are fp32 for every dtype. Returns POSEWARP_OK or what went wrong. */
POSEWARP_API int posewarp_grid_sample(const void* features, int dtype, const float* grid, void* output, int spatial_rank,
    int64_t batch, int64_t channels, int64_t depth, int64_t height, int64_t width, int64_t out_depth,
    int64_t out_height, int64_t out_width, int mode, int padding, int align_corners, int threads);

#ifdef __cplusplus
}
#endif
