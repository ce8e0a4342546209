#include "cuda/grid_sample.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

namespace posewarp
{
namespace
{

constexpr int32_t kTHREADS = 256;

// Blocks a launch asks for at most along one axis; what is left over, each block takes in further strides.
constexpr int64_t kMAX_BLOCKS = 65535;

// Channels that a thread of the NCHW kernel samples at one position: so many that the position's arithmetic is a small
// part, if enough blocks are left to fill a GPU (a map of 64x44 with 256 channels makes 352 with the fewest).
constexpr int64_t kFEWEST_CHANNELS = 8;
constexpr int64_t kMOST_CHANNELS = 32;
constexpr int64_t kENOUGH_BLOCKS = 1024;

// Channels whose reads are in flight together: 16 reads of 4 taps, in 64 registers.
constexpr int kTOGETHER = 4;

// Blocks that a multiprocessor shall hold: of 80 registers a thread at most.
constexpr int kRESIDENT_BLOCKS = 3;

// Channels in one 16-byte vector of kHWC8.
constexpr int32_t kLANES = 8;

__device__ __forceinline__ float toFloat(float value)
{
    return value;
}

__device__ __forceinline__ float toFloat(__half value)
{
    return __half2float(value);
}

__device__ __forceinline__ float toFloat(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

__device__ __forceinline__ void store(float* place, float value)
{
    *place = value;
}

__device__ __forceinline__ void store(__half* place, float value)
{
    *place = __float2half_rn(value);
}

__device__ __forceinline__ void store(__nv_bfloat16* place, float value)
{
    *place = __float2bfloat16_rn(value);
}

// The same pixel of several channels: of planes that lie apart, or in one vector of kHWC8.
template <int kCOUNT> struct Lanes
{
    float value[kCOUNT];

    __device__ __forceinline__ Lanes operator*(float weight) const
    {
        Lanes product;
        for (int i = 0; i < kCOUNT; ++i)
        {
            product.value[i] = value[i] * weight;
        }
        return product;
    }

    __device__ __forceinline__ Lanes operator+(Lanes const& other) const
    {
        Lanes total;
        for (int i = 0; i < kCOUNT; ++i)
        {
            total.value[i] = value[i] + other.value[i];
        }
        return total;
    }
};

// One point in kCOUNT channels, `in` and `out` being the first one's. Each tap is read, and dropped if it lies outside:
// reads under a condition are not put in flight together (H200, 256 channels of 256x176: 94 us, 49 as it is, a copy 25).
template <int kCOUNT, typename T, Mode kMODE, int kRANK>
__device__ __forceinline__ void samplePlanes(
    Taps<kMODE, kRANK> const& taps, T const* in, int64_t plane, T* out, int64_t points)
{
    auto const load = [=](int64_t pixel)
    {
        T const* const place = in + (pixel < 0 ? 0 : pixel);
        Lanes<kCOUNT> lanes;
        for (int i = 0; i < kCOUNT; ++i)
        {
            float const value = toFloat(place[i * plane]);
            lanes.value[i] = pixel < 0 ? 0.0F : value;
        }
        return lanes;
    };
    Lanes<kCOUNT> const result = sum(taps, load);
    for (int i = 0; i < kCOUNT; ++i)
    {
        store(out + i * points, result.value[i]);
    }
}

// A thread takes one point of one image and `each` channels; blocks run along the points (x), groups of channels (y) and
// images (z), so neighbouring threads write neighbouring pixels.
template <typename T, Mode kMODE, int kRANK>
__global__ void __launch_bounds__(kTHREADS, kRESIDENT_BLOCKS)
    sampleNchw(T const* __restrict__ features, float const* __restrict__ grid, T* __restrict__ output,
        Sizes const sizes, Attributes const attributes, int64_t const each)
{
    // A bicubic point's 16 taps are reads enough by themselves, and registers.
    constexpr int kCOUNT = kMODE == Mode::kBICUBIC ? 1 : kTOGETHER;
    int64_t const plane = sizes.pixels();
    int64_t const points = sizes.outPixels();
    for (int64_t batch = blockIdx.z; batch < sizes.batch; batch += gridDim.z)
    {
        for (int64_t first = blockIdx.y * each; first < sizes.channels; first += gridDim.y * each)
        {
            int64_t const count = min(each, sizes.channels - first);
            T const* const in = features + (batch * sizes.channels + first) * plane;
            T* const out = output + (batch * sizes.channels + first) * points;
            for (int64_t point = int64_t{blockIdx.x} * kTHREADS + threadIdx.x; point < points;
                point += int64_t{gridDim.x} * kTHREADS)
            {
                auto const taps = locate<kMODE, kRANK>(grid + (batch * points + point) * kRANK, sizes, attributes);
                int64_t channel = 0;
#pragma unroll 1
                for (; channel + kCOUNT <= count; channel += kCOUNT)
                {
                    samplePlanes<kCOUNT>(taps, in + channel * plane, plane, out + channel * points + point, points);
                }
#pragma unroll 1
                for (; channel < count; ++channel)
                {
                    samplePlanes<1>(taps, in + channel * plane, plane, out + channel * points + point, points);
                }
            }
        }
    }
}

union Vector
{
    uint4 bits;
    __half2 pair[kLANES / 2];
};

__device__ __forceinline__ Lanes<kLANES> unpack(uint4 bits)
{
    Vector vector;
    vector.bits = bits;
    Lanes<kLANES> lanes;
    for (int i = 0; i < kLANES / 2; ++i)
    {
        float2 const pair = __half22float2(vector.pair[i]);
        lanes.value[2 * i] = pair.x;
        lanes.value[2 * i + 1] = pair.y;
    }
    return lanes;
}

// Lanes from `count` on are padding and become zero.
__device__ __forceinline__ uint4 pack(Lanes<kLANES> const& lanes, int64_t count)
{
    Vector vector;
    for (int i = 0; i < kLANES / 2; ++i)
    {
        vector.pair[i] = __floats2half2_rn(
            2 * i < count ? lanes.value[2 * i] : 0.0F, 2 * i + 1 < count ? lanes.value[2 * i + 1] : 0.0F);
    }
    return vector.bits;
}

// A block takes a tile of points: first it locates each once, into shared memory, then its threads share out the
// points' vectors of eight channels, neighbouring threads on neighbouring vectors.
template <Mode kMODE>
__global__ void __launch_bounds__(kTHREADS)
    sampleHwc8(uint4 const* __restrict__ features, float const* __restrict__ grid, uint4* __restrict__ output,
        Sizes const sizes, Attributes const attributes, int32_t const tile)
{
    extern __shared__ __align__(16) unsigned char shared[];
    auto* const taps = reinterpret_cast<Taps<kMODE, 2>*>(shared);
    int64_t const points = sizes.outPixels();
    uint32_t const vectors = static_cast<uint32_t>((sizes.channels + kLANES - 1) / kLANES);
    for (int64_t batch = blockIdx.y; batch < sizes.batch; batch += gridDim.y)
    {
        uint4 const* const in = features + batch * sizes.pixels() * vectors;
        for (int64_t first = int64_t{blockIdx.x} * tile; first < points; first += int64_t{gridDim.x} * tile)
        {
            uint32_t const count = static_cast<uint32_t>(min(int64_t{tile}, points - first));
            int64_t const start = batch * points + first;
            __syncthreads(); // the tile before may still be read
            for (uint32_t i = threadIdx.x; i < count; i += kTHREADS)
            {
                taps[i] = locate<kMODE, 2>(grid + (start + i) * 2, sizes, attributes);
            }
            __syncthreads();
            uint4* const out = output + start * vectors;
            for (uint32_t item = threadIdx.x; item < count * vectors; item += kTHREADS)
            {
                uint32_t const vector = item % vectors;
                auto const load = [=](int64_t pixel)
                { return unpack(pixel < 0 ? make_uint4(0, 0, 0, 0) : __ldg(in + pixel * vectors + vector)); };
                out[item] = pack(sum(taps[item / vectors], load), sizes.channels - int64_t{vector} * kLANES);
            }
        }
    }
}

unsigned blocks(int64_t items, int64_t each)
{
    return static_cast<unsigned>(std::min((items + each - 1) / each, kMAX_BLOCKS));
}

// The launch's own result: cudaGetLastError would also take what another library left behind.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(
    void (*kernel)(Parameters...), dim3 grid, size_t sharedBytes, cudaStream_t stream, Arguments... arguments)
{
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(kTHREADS);
    config.dynamicSmemBytes = sharedBytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename T> struct NchwLauncher
{
    void const* features;
    float const* grid;
    void* output;
    Sizes const& sizes;
    Attributes const& attributes;
    cudaStream_t stream;

    template <Mode kMODE, int kRANK> cudaError_t run() const
    {
        unsigned const along = blocks(sizes.outPixels(), kTHREADS), images = blocks(sizes.batch, 1);
        int64_t each = kMOST_CHANNELS;
        while (each > kFEWEST_CHANNELS && int64_t{along} * images * blocks(sizes.channels, each) < kENOUGH_BLOCKS)
        {
            each /= 2;
        }
        dim3 const grids(along, blocks(sizes.channels, each), images);
        return launch(sampleNchw<T, kMODE, kRANK>, grids, 0, stream, static_cast<T const*>(features), grid,
            static_cast<T*>(output), sizes, attributes, each);
    }
};

template <Mode kMODE>
cudaError_t launchHwc8(void const* features, float const* grid, void* output, Sizes const& sizes,
    Attributes const& attributes, cudaStream_t stream)
{
    // About two vectors a thread; no more points than threads, which bounds the shared memory to 40 KiB.
    int64_t const vectors = (sizes.channels + kLANES - 1) / kLANES;
    auto const tile = static_cast<int32_t>(std::clamp<int64_t>(2 * kTHREADS / vectors, 1, kTHREADS));
    static_assert(sizeof(Taps<kMODE, 2>) * kTHREADS <= 40 * 1024, "more than 48 KiB would need an attribute set");
    dim3 const grids(blocks(sizes.outPixels(), tile), blocks(sizes.batch, 1));
    return launch(sampleHwc8<kMODE>, grids, sizeof(Taps<kMODE, 2>) * tile, stream, static_cast<uint4 const*>(features),
        grid, static_cast<uint4*>(output), sizes, attributes, tile);
}

} // namespace

cudaError_t launchGridSample(void const* features, float const* grid, void* output, Type type, Layout layout,
    Sizes const& sizes, Attributes const& attributes, cudaStream_t stream) noexcept
{
    if (findProblem(sizes, attributes) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    if (sizes.outElements() == 0)
    {
        return cudaSuccess;
    }
    if (layout == Layout::kHWC8)
    {
        bool const aligned
            = ((reinterpret_cast<uintptr_t>(features) | reinterpret_cast<uintptr_t>(output)) % sizeof(uint4)) == 0;
        if (type != Type::kHALF || sizes.spatialRank != 2 || sizes.channels > INT32_MAX || !aligned)
        {
            return cudaErrorInvalidValue;
        }
        switch (attributes.mode)
        {
        case Mode::kBILINEAR: return launchHwc8<Mode::kBILINEAR>(features, grid, output, sizes, attributes, stream);
        case Mode::kNEAREST: return launchHwc8<Mode::kNEAREST>(features, grid, output, sizes, attributes, stream);
        case Mode::kBICUBIC: return launchHwc8<Mode::kBICUBIC>(features, grid, output, sizes, attributes, stream);
        }
        return cudaErrorInvalidValue;
    }
    auto const dispatchNchw = [&](auto launcher) { return dispatch(attributes.mode, sizes.spatialRank, launcher); };
    switch (type)
    {
    case Type::kFLOAT: return dispatchNchw(NchwLauncher<float>{features, grid, output, sizes, attributes, stream});
    case Type::kHALF: return dispatchNchw(NchwLauncher<__half>{features, grid, output, sizes, attributes, stream});
    case Type::kBFLOAT16:
        return dispatchNchw(NchwLauncher<__nv_bfloat16>{features, grid, output, sizes, attributes, stream});
    }
    return cudaErrorInvalidValue;
}

} // namespace posewarp
