#include "tensorrt/contract/contract.h"

#include "cuda/device.h"

namespace posewarp::contract
{
namespace
{

using cases::Case;

struct Call
{
    PluginTensorDesc in[2]{};
    PluginTensorDesc out[1]{};
};

Call describe(Case const& test)
{
    static constexpr DataType kTYPES[]{DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
    Sizes const& s = test.sizes;
    Call call;
    call.in[0].type = call.out[0].type = kTYPES[(int)test.type];
    call.in[0].format = call.out[0].format = test.layout == Layout::kHWC8 ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
    call.in[1].type = DataType::kFLOAT;
    call.in[1].format = TensorFormat::kLINEAR;
    if (s.spatialRank == 2)
    {
        call.in[0].dims = {4, {s.batch, s.channels, s.height, s.width}};
        call.in[1].dims = {4, {s.batch, s.outHeight, s.outWidth, 2}};
        call.out[0].dims = {4, {s.batch, s.channels, s.outHeight, s.outWidth}};
    }
    else
    {
        call.in[0].dims = {5, {s.batch, s.channels, s.depth, s.height, s.width}};
        call.in[1].dims = {5, {s.batch, s.outDepth, s.outHeight, s.outWidth, 3}};
        call.out[0].dims = {5, {s.batch, s.channels, s.outDepth, s.outHeight, s.outWidth}};
    }
    return call;
}

int32_t enqueue(IPluginV3& plugin, Call const& call, void* features, void* grid, void* output, cudaStream_t stream)
{
    void const* const inputs[]{features, grid};
    void* const outputs[]{output};
    return runtime(plugin).enqueue(call.in, call.out, inputs, outputs, nullptr, stream);
}

// Once directly, then as a captured CUDA graph.
std::string enqueueTwice(Case const& test, void* features, void* grid, void* output, cudaStream_t stream)
{
    auto const plugin = create(test.attributes);
    Call const call = describe(test);
    auto const enqueueOnce = [&]
    { return enqueue(*plugin, call, features, grid, output, stream) == 0 ? "" : "enqueue failed: " + takeLog(); };
    std::string const problem = enqueueOnce();
    return problem.empty() ? cases::repeatAsGraph(stream, enqueueOnce) : problem;
}

} // namespace

void checkEnqueueRefusals()
{
    Case const test{{2, 2, 5, 1, 8, 6, 1, 3, 4}, {}, Type::kHALF, Layout::kHWC8};
    auto const plugin = create(test.attributes);
    auto const refused = [&](std::string const& reason, auto const& spoil)
    {
        Call call = describe(test);
        spoil(call);
        expect(enqueue(*plugin, call, nullptr, nullptr, nullptr, nullptr) != 0, "enqueue refuses: " + reason);
        expectLogged(reason, "enqueue");
    };
    refused("types or formats", [](Call& call) { call.in[1].type = DataType::kHALF; });
    refused("types or formats", [](Call& call) { call.out[0].format = TensorFormat::kLINEAR; });
    refused("types or formats", [](Call& call) { call.in[0].type = call.out[0].type = DataType::kINT8; });
    refused("do not fit", [](Call& call) { call.in[1].dims.d[0] = 1; });
    refused("do not fit", [](Call& call) { call.in[1].dims.d[3] = 3; });
    refused("do not fit", [](Call& call) { call.out[0].dims.d[2] = 4; });
    refused("non-empty spatial sizes", [](Call& call) { call.in[0].dims.d[2] = 0; });
    refused("dimensions", [](Call& call) { call.in[1].dims.nbDims = 5; });
    Call const call = describe(test);
    expect(runtime(*plugin).onShapeChange(call.in, 2, call.out, 1) == 0, "onShapeChange takes what enqueue takes");
    Case const empty{{2, 0, 5, 1, 8, 6, 1, 3, 4}, {}, Type::kFLOAT, Layout::kNCHW};
    expect(enqueue(*plugin, describe(empty), nullptr, nullptr, nullptr, nullptr) == 0,
        "an empty output returns at once, from null pointers too");
}

void checkEnqueue()
{
    std::vector<Case> const tests = cases::makeCases(/*crowds=*/false);
    int const failures = cases::countFailures(tests, cases::onDevice(enqueueTwice));
    std::printf("enqueue%s: %zu cases, %d failed\n", cases::kEMULATED ? ", emulated" : "", tests.size(), failures);
    expect(failures == 0, "enqueue gives what the core gives");
}

} // namespace posewarp::contract
