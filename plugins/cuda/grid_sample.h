// GridSample on the GPU. The arithmetic is core/grid_sample.h; here is only how threads share the work.
#pragma once

#include "core/grid_sample.h"

#include <cuda_runtime_api.h>

namespace posewarp
{

// Of features and output; the grid and all arithmetic are fp32. Numbered as dtype in cpu/posewarp_cpu.h.
enum class Type
{
    kFLOAT = 0,
    kHALF = 1,
    kBFLOAT16 = 2
};

// kNCHW is (N, C, [D,] H, W). kHWC8 is TensorRT's channel-last format (N, H, W, C rounded up to a multiple of 8),
// for fp16 and 4-D only; the lanes beyond C are not read into the result, and are written as zeros.
enum class Layout
{
    kNCHW,
    kHWC8
};

// Puts one kernel on `stream`: nothing is allocated, copied or waited for. Device pointers; those of kHWC8 must be
// aligned to 16 bytes. An empty output returns at once. Returns cudaErrorInvalidValue for what has no kernel, else
// what the launch said.
cudaError_t launchGridSample(void const* features, float const* grid, void* output, Type type, Layout layout,
    Sizes const& sizes, Attributes const& attributes, cudaStream_t stream) noexcept;

} // namespace posewarp
