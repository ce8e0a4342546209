// Registers the operators with a session of ONNX Runtime.
//
// An operator that is registered under the domain and name of a model-local function is taken instead of its body.
// Inside, failures are exceptions; guarded() turns them into ONNX Runtime's statuses, so none leaves the library.

#include "operators.h"

#include <array>

namespace posewarp::ort
{
namespace
{

// Made once and kept: ONNX Runtime holds on to both for as long as any session lives.
struct Operators
{
    std::array<Op, 5> mOps;
    CustomOpDomain* mDomain{nullptr};

    explicit Operators(Api const* api)
        : mOps{makeMixedGridSample(api, kFLOAT), makeMixedGridSample(api, kFLOAT16),
            makeMixedGridSample(api, kBFLOAT16), makeWinogradConv(api, false),
            makeWinogradConv(api, true)}
    {
        check(api->CreateCustomOpDomain(kDOMAIN, &mDomain));
        for (Op const& op : mOps)
        {
            check(api->CustomOpDomain_Add(mDomain, &op));
        }
    }
};

} // namespace
} // namespace posewarp::ort

extern "C" __attribute__((visibility("default"))) posewarp::ort::Status* RegisterCustomOps(
    posewarp::ort::SessionOptions* options, posewarp::ort::ApiBase const* base)
{
    using namespace posewarp::ort;
    Api const* api = base->GetApi(kAPI_VERSION);
    if (api == nullptr)
    {
        return base->GetApi(1)->CreateStatus(kFAIL, "libposewarp_cpu.so needs ONNX Runtime 1.17 or later");
    }
    return guarded(api, [&] {
        static Operators const operators(api);
        check(api->AddCustomOpDomain(options, operators.mDomain));
    });
}
