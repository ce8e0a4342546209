// Times the kernels: validated first, then 20 batches of launches between events; the median batch counts. Beside each
// the rate of a device-to-device copy of as many bytes, measured the same way. --json: one object a line.
#include "cuda/device.h"

namespace
{

using posewarp::cases::Buffer;
using posewarp::cases::Case;
using posewarp::cases::Data;

constexpr int kBATCHES = 20;
constexpr int kLAUNCHES = 50;

// Median time of one call of `enqueue`, microseconds.
template <typename Enqueue> double timeOnStream(cudaStream_t stream, Enqueue const& enqueue)
{
    cudaEvent_t start, stop;
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
    std::vector<float> times_ms(kBATCHES + 1);
    for (float& time_ms : times_ms)
    {
        cudaEventRecord(start, stream);
        for (int i = 0; i < kLAUNCHES; ++i)
        {
            enqueue();
        }
        cudaEventRecord(stop, stream);
        cudaEventSynchronize(stop);
        cudaEventElapsedTime(&time_ms, start, stop);
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    std::sort(times_ms.begin() + 1, times_ms.end()); // the first batch warms up
    return 1e3 * times_ms[1 + kBATCHES / 2] / kLAUNCHES;
}

void printRow(char const* name, Case const& test, bool smooth, bool json, cudaStream_t stream)
{
    Data const data = posewarp::cases::makeData(test, smooth);
    std::vector<unsigned char> output(test.sizes.batch * test.lanes() * test.sizes.outPixels() * test.elementBytes());
    Buffer const features(data.features.data(), data.features.size());
    Buffer const grid(data.grid.data(), data.grid.size() * sizeof(float));
    Buffer const result(output.size());
    auto const sample = [&]
    {
        return posewarp::launchGridSample(features.get(), static_cast<float*>(grid.get()), result.get(), test.type,
            test.layout, test.sizes, test.attributes, stream);
    };
    cudaError_t error = sample();
    error = error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
    cudaMemcpy(output.data(), result.get(), output.size(), cudaMemcpyDeviceToHost);
    std::string const problem
        = error == cudaSuccess ? posewarp::cases::findDifference(test, data, output) : cudaGetErrorString(error);
    if (!problem.empty())
    {
        std::printf("FAILED %s: %s\n", test.describe().c_str(), problem.c_str());
        std::exit(1);
    }
    double const sample_us = timeOnStream(stream, sample);
    size_t const bytes = data.features.size() + output.size() + data.grid.size() * sizeof(float);
    Buffer const from(bytes / 2), to(bytes / 2); // a copy reads and writes each byte
    double const copy_us = timeOnStream(
        stream, [&] { cudaMemcpyAsync(to.get(), from.get(), bytes / 2, cudaMemcpyDeviceToDevice, stream); });
    posewarp::Sizes const& s = test.sizes;
    char const* const form = json
        ? "{\"kernel\": \"%s\", \"shape\": [%lld, %lld, %lld, %lld], \"grid\": \"%s\", \"sample_us\": %.2f, "
          "\"copy_us\": %.2f, \"gb_per_s\": %.1f}\n"
        : "%-10s %lldx%lldx%lldx%lld %-7s %9.2f us, copy %9.2f us, %8.1f GB/s\n";
    std::printf(form, name, (long long)s.batch, (long long)s.channels, (long long)s.height, (long long)s.width,
        smooth ? "smooth" : "random", sample_us, copy_us, bytes / sample_us / 1e3);
}

} // namespace

int main(int count, char** arguments)
{
    bool const json = count > 1 && arguments[1] == std::string("--json");
    if (std::string const problem = posewarp::cases::findDeviceProblem(); !problem.empty())
    {
        std::printf("not measured: %s\n", problem.c_str());
        return 0;
    }
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    posewarp::Attributes const attributes{posewarp::Mode::kBILINEAR, posewarp::Padding::kZEROS, true};
    int64_t const shapes[][4]{
        {1, 256, 64, 44}, {1, 64, 256, 176}, {1, 256, 256, 176}, {8, 256, 64, 44}, {1, 61, 67, 43}};
    for (auto const& [batch, channels, height, width] : shapes)
    {
        posewarp::Sizes const sizes{2, batch, channels, 1, height, width, 1, height, width};
        for (bool const smooth : {true, false})
        {
            printRow(
                "fp32", {sizes, attributes, posewarp::Type::kFLOAT, posewarp::Layout::kNCHW}, smooth, json, stream);
            printRow("fp16", {sizes, attributes, posewarp::Type::kHALF, posewarp::Layout::kNCHW}, smooth, json, stream);
            printRow(
                "fp16 HWC8", {sizes, attributes, posewarp::Type::kHALF, posewarp::Layout::kHWC8}, smooth, json, stream);
        }
    }
    cudaStreamDestroy(stream);
    return 0;
}
