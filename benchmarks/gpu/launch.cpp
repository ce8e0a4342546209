// The kernels for Python: the plugin library shows TensorRT's entry points alone.
#include "cuda/grid_sample.h"

// Bilinear, zeros outside, align_corners; FP32, features (batch, channels, height, width), grid (batch, height, width,
// 2). Puts one kernel on a stream; returns CUDA's status.
extern "C" int posewarp_launch_grid_sample(void const* features, float const* grid, void* output, int64_t batch,
    int64_t channels, int64_t height, int64_t width, void* stream)
{
    using namespace posewarp;
    Sizes const sizes{2, batch, channels, 1, height, width, 1, height, width};
    Attributes const attributes{Mode::kBILINEAR, Padding::kZEROS, true};
    return launchGridSample(features, grid, output, Type::kFLOAT, Layout::kNCHW, sizes, attributes,
        static_cast<cudaStream_t>(stream));
}
