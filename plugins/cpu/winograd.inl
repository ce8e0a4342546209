// The steps of winograd.h in vectors, compiled once for each instruction set. POSEWARP_LANES: floats in a vector;
// POSEWARP_ROWS: output channels at a time, so that sums, one row of inputs and a weight fit the registers.
#include "winograd.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace posewarp::cpu
{
namespace
{

constexpr int64_t kLANES_A_VECTOR = POSEWARP_LANES;
constexpr int kROWS = POSEWARP_ROWS;
constexpr int kVECTORS = 3; // of tiles at a time
constexpr int64_t kAHEAD = 48;
constexpr int kSIDE = 6;    // of an input tile
constexpr int64_t kSTEP = 4; // of an output tile

using Integers = int32_t __attribute__((vector_size(POSEWARP_LANES * 4)));
using Vector = float __attribute__((vector_size(POSEWARP_LANES * 4)));

inline Vector load(float const* from)
{
    Vector values;
    std::memcpy(&values, from, sizeof(values));
    return values;
}

inline void store(float* to, Vector values)
{
    std::memcpy(to, &values, sizeof(values));
}

// Lane i of the result is lane pick(i) of a and b, counted through.
template <typename Pick, size_t... kINDEX>
inline Vector shuffle(Vector a, Vector b, Pick pick, std::index_sequence<kINDEX...>)
{
#if defined(__clang__)
    return __builtin_shufflevector(a, b, pick(kINDEX)...);
#else
    return __builtin_shuffle(a, b, Integers{pick(kINDEX)...});
#endif
}

template <typename Pick>
inline Vector shuffle(Vector a, Vector b, Pick pick)
{
    return shuffle(a, b, pick, std::make_index_sequence<POSEWARP_LANES>());
}

// Pixels of a row to every fourth one, and back.
inline void deinterleave(float const* row, Vector (&out)[kSTEP])
{
    constexpr auto kEVEN = [](size_t i) constexpr { return static_cast<int>(2 * i); };
    constexpr auto kODD = [](size_t i) constexpr { return static_cast<int>(2 * i + 1); };
    Vector const a = load(row), b = load(row + kLANES_A_VECTOR), c = load(row + 2 * kLANES_A_VECTOR),
                 d = load(row + 3 * kLANES_A_VECTOR);
    Vector const evenFirst = shuffle(a, b, kEVEN), evenLast = shuffle(c, d, kEVEN);
    Vector const oddFirst = shuffle(a, b, kODD), oddLast = shuffle(c, d, kODD);
    out[0] = shuffle(evenFirst, evenLast, kEVEN);
    out[1] = shuffle(oddFirst, oddLast, kEVEN);
    out[2] = shuffle(evenFirst, evenLast, kODD);
    out[3] = shuffle(oddFirst, oddLast, kODD);
}

inline void interleave(Vector const (&x)[kSTEP], float* row)
{
    constexpr auto kLOW = [](size_t i) constexpr { return static_cast<int>(i / 2 + i % 2 * POSEWARP_LANES); };
    constexpr auto kHIGH = [](size_t i) constexpr {
        return static_cast<int>(i / 2 + i % 2 * POSEWARP_LANES + POSEWARP_LANES / 2);
    };
    Vector const evenLow = shuffle(x[0], x[2], kLOW), evenHigh = shuffle(x[0], x[2], kHIGH);
    Vector const oddLow = shuffle(x[1], x[3], kLOW), oddHigh = shuffle(x[1], x[3], kHIGH);
    store(row, shuffle(evenLow, oddLow, kLOW));
    store(row + kLANES_A_VECTOR, shuffle(evenLow, oddLow, kHIGH));
    store(row + 2 * kLANES_A_VECTOR, shuffle(evenHigh, oddHigh, kLOW));
    store(row + 3 * kLANES_A_VECTOR, shuffle(evenHigh, oddHigh, kHIGH));
}

// B^T x
inline void transformSix(Vector const (&x)[kSIDE], Vector (&out)[kSIDE])
{
    Vector const even = x[4] - 4 * x[2], odd = x[3] - 4 * x[1];
    Vector const near = x[4] - x[2], far = 2 * (x[3] - x[1]);
    out[0] = 4 * x[0] - 5 * x[2] + x[4];
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = near + far;
    out[4] = near - far;
    out[5] = 4 * x[1] - 5 * x[3] + x[5];
}

// A^T x
inline void sumSix(Vector const (&x)[kSIDE], Vector (&out)[kSTEP])
{
    Vector const sum = x[1] + x[2], difference = x[1] - x[2];
    Vector const outerSum = x[3] + x[4], outerDifference = x[3] - x[4];
    out[0] = x[0] + sum + outerSum;
    out[1] = difference + 2 * outerDifference;
    out[2] = sum + 4 * outerSum;
    out[3] = difference + 8 * outerDifference + x[5];
}

// A panel is kVECTORS vectors of tiles, the last one of a chunk what is left; a panel's channels lie one after another.
struct Panel
{
    int64_t offset; // of its first channel, in floats
    int64_t width;  // tiles
};

inline Panel panelOf(int64_t tile, int64_t tiles, int64_t channels)
{
    constexpr int64_t kWIDTH = kVECTORS * kLANES_A_VECTOR;
    int64_t const first = tile / kWIDTH * kWIDTH;
    return {first * channels, std::min(kWIDTH, tiles - first)};
}

void transformInput(float const* plane, ConvSizes const& sizes, Chunk const& chunk, int64_t channel, float* scratch,
    float* transformed)
{
    // The pixels of the chunk and those around it, sorted by their place in a tile of the output: the pixel in column x
    // and row y of every tile lies in one run, in the order of the tiles. A tile's rows 4 and 5 are the next tile row's
    // 0 and 1; its columns 4 and 5 are kept once more, for in a row's last tile they are no other tile's.
    int64_t const columns = chunk.columns, run = chunk.run(kLANES_A_VECTOR);
    float* const line = scratch + kSTEP * kSIDE * run + kLANES_A_VECTOR; // a row with zeros before and after
    std::fill_n(line, chunk.line(kLANES_A_VECTOR), 0.0F);
    for (int64_t y = 0; y < chunk.rows * kSTEP + 2; ++y)
    {
        float* const sorted = scratch + y % kSTEP * kSIDE * run + y / kSTEP * columns;
        int64_t const from = chunk.firstRow * kSTEP + y - 1;
        if (from < 0 || from >= sizes.height)
        {
            for (int x = 0; x < kSIDE; ++x)
            {
                std::fill_n(sorted + x * run, columns, 0.0F);
            }
            continue;
        }
        std::memcpy(line + 1, plane + from * sizes.width, static_cast<size_t>(sizes.width) * sizeof(float));
        // What is stored beyond the last column is overwritten by the next row of tiles, or lies between two runs.
        for (int64_t tile = 0; tile < columns; tile += kLANES_A_VECTOR)
        {
            Vector pixels[kSTEP], next[kSTEP];
            deinterleave(line + tile * kSTEP, pixels);
            deinterleave(line + (tile + 1) * kSTEP, next);
            for (int x = 0; x < kSIDE; ++x)
            {
                store(sorted + x * run + tile, x < kSTEP ? pixels[x] : next[x - kSTEP]);
            }
        }
    }
    int64_t const stride = chunk.stride(sizes.inChannels);
    for (int64_t tile = 0; tile < chunk.tiles; tile += kLANES_A_VECTOR)
    {
        Vector byColumn[kSIDE][kSIDE];
        for (int x = 0; x < kSIDE; ++x)
        {
            Vector pixels[kSIDE];
            for (int y = 0; y < kSIDE; ++y)
            {
                pixels[y] = load(scratch + (y % kSTEP * kSIDE + x) * run + y / kSTEP * columns + tile);
            }
            transformSix(pixels, byColumn[x]);
        }
        Panel const panel = panelOf(tile, chunk.tiles, sizes.inChannels);
        float* const to = transformed + panel.offset + channel * panel.width + (tile - panel.offset / sizes.inChannels);
        for (int y = 0; y < kSIDE; ++y)
        {
            Vector row[kSIDE], out[kSIDE];
            for (int x = 0; x < kSIDE; ++x)
            {
                row[x] = byColumn[x][y];
            }
            transformSix(row, out);
            for (int x = 0; x < kSIDE; ++x)
            {
                store(to + (y * kSIDE + x) * stride, out[x]);
            }
        }
    }
}

template <int kCOUNT>
inline void multiplyPanel(
    float const* weights, float const* panel, float* product, int64_t inChannels, int64_t tiles)
{
    Vector sums[kROWS][kCOUNT]{};
    for (int64_t c = 0; c < inChannels; ++c)
    {
        __builtin_prefetch(weights + (c + kAHEAD) * kROWS); // a tenth faster where the weights come from memory
        Vector values[kCOUNT];
#pragma GCC unroll 4
        for (int j = 0; j < kCOUNT; ++j)
        {
            values[j] = load(panel + (c * kCOUNT + j) * kLANES_A_VECTOR);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kROWS; ++i)
        {
            float const weight = weights[c * kROWS + i];
#pragma GCC unroll 4
            for (int j = 0; j < kCOUNT; ++j)
            {
                sums[i][j] += weight * values[j];
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kROWS; ++i)
    {
#pragma GCC unroll 4
        for (int j = 0; j < kCOUNT; ++j)
        {
            store(product + i * tiles + j * kLANES_A_VECTOR, sums[i][j]);
        }
    }
}

void multiply(float const* weights, float const* transformed, float* product, int64_t inChannels, int64_t tiles,
    int64_t first, int64_t last)
{
    for (int64_t tile = 0; tile < tiles; tile += kVECTORS * kLANES_A_VECTOR)
    {
        Panel const panel = panelOf(tile, tiles, inChannels);
        auto* const kernel = panel.width == 3 * kLANES_A_VECTOR ? multiplyPanel<3>
            : panel.width == 2 * kLANES_A_VECTOR                ? multiplyPanel<2>
                                                                : multiplyPanel<1>;
        for (int64_t block = first; block < last; ++block)
        {
            kernel(weights + block * kROWS * inChannels, transformed + panel.offset, product + block * kROWS * tiles + tile,
                inChannels, tiles);
        }
    }
}

void transformOutput(float const* products, ConvSizes const& sizes, Chunk const& chunk, int64_t channel,
    Ending const& ending, float* scratch, float* plane)
{
    float const bias = ending.bias == nullptr ? 0.0F : ending.bias[channel];
    Vector const zero{};
    int64_t const blocks = (sizes.outChannels + kROWS - 1) / kROWS * kROWS, stride = chunk.stride(blocks);
    for (int64_t tile = 0; tile < chunk.tiles; tile += kLANES_A_VECTOR)
    {
        float const* const from = products + channel * chunk.tiles + tile;
        Vector byColumn[kSIDE][kSTEP];
        for (int x = 0; x < kSIDE; ++x)
        {
            Vector values[kSIDE];
            for (int y = 0; y < kSIDE; ++y)
            {
                values[y] = load(from + (y * kSIDE + x) * stride);
            }
            sumSix(values, byColumn[x]);
        }
        for (int y = 0; y < kSTEP; ++y)
        {
            Vector row[kSIDE], out[kSTEP];
            for (int x = 0; x < kSIDE; ++x)
            {
                row[x] = byColumn[x][y];
            }
            sumSix(row, out);
            for (int x = 0; x < kSTEP; ++x)
            {
                Vector const sum = out[x] + bias;
                store(scratch + (y * kSTEP + x) * chunk.tiles + tile, ending.relu ? (sum < zero ? zero : sum) : sum);
            }
        }
    }
    int64_t const top = chunk.firstRow * kSTEP;
    for (int64_t y = 0; y < std::min(chunk.rows * kSTEP, sizes.height - top); ++y)
    {
        float const* const sorted = scratch + y % kSTEP * kSTEP * chunk.tiles + y / kSTEP * chunk.columns;
        float* const row = plane + (top + y) * sizes.width;
        for (int64_t x = 0; x < sizes.width; x += kSTEP * kLANES_A_VECTOR)
        {
            Vector pixels[kSTEP];
            for (int i = 0; i < kSTEP; ++i)
            {
                pixels[i] = load(sorted + i * chunk.tiles + x / kSTEP);
            }
            float last[kSTEP * kLANES_A_VECTOR];
            int64_t const left = std::min(kSTEP * kLANES_A_VECTOR, sizes.width - x);
            bool const whole = left == kSTEP * kLANES_A_VECTOR;
            interleave(pixels, whole ? row + x : last);
            if (!whole)
            {
                std::memcpy(row + x, last, static_cast<size_t>(left) * sizeof(float));
            }
        }
    }
}

} // namespace

extern WinogradKernels const POSEWARP_WINOGRAD{
    POSEWARP_SIMD, POSEWARP_LANES, POSEWARP_ROWS, transformInput, multiply, transformOutput};

} // namespace posewarp::cpu
