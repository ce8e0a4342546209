// What the operators share: ONNX Runtime's failures as exceptions and back, shapes, threads.
#pragma once

#include "api.h"

#include "../cpu/sampler.h"

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace posewarp::ort
{

constexpr char kDOMAIN[] = "posewarp";

struct Failure
{
    Status* mStatus;
};

inline void check(Status* status)
{
    if (status != nullptr)
    {
        throw Failure{status};
    }
}

template <class Body>
Status* guarded(Api const* api, Body const& body) noexcept
{
    try
    {
        body();
        return nullptr;
    }
    catch (Failure const& failure)
    {
        return failure.mStatus;
    }
    catch (std::invalid_argument const& problem)
    {
        return api->CreateStatus(kINVALID_ARGUMENT, problem.what());
    }
    catch (std::exception const& problem)
    {
        return api->CreateStatus(kFAIL, problem.what());
    }
}

inline std::invalid_argument refusal(char const* operatorName, std::string const& problem)
{
    return std::invalid_argument(std::string(operatorName) + ": " + problem);
}

using OwnedShape = std::unique_ptr<TypeAndShape, void (*)(TypeAndShape*)>;

inline std::vector<int64_t> readShape(Api const* api, TypeAndShape const* info)
{
    size_t rank{0};
    check(api->GetDimensionsCount(info, &rank));
    std::vector<int64_t> shape(rank);
    check(api->GetDimensions(info, shape.data(), rank));
    return shape;
}

inline std::vector<int64_t> readShape(Api const* api, Value const* value)
{
    TypeAndShape* info{nullptr};
    check(api->GetTensorTypeAndShape(value, &info));
    OwnedShape const owned(info, api->ReleaseTensorTypeAndShapeInfo);
    return readShape(api, info);
}

inline std::string toText(std::vector<int64_t> const& shape)
{
    std::string text;
    for (int64_t size : shape)
    {
        text += (text.empty() ? "" : "x") + std::to_string(size);
    }
    return text;
}

template <class Data>
Data* dataOf(Api const* api, Value const* value)
{
    void* data{nullptr};
    check(api->GetTensorMutableData(const_cast<Value*>(value), &data)); // there is none for const
    return static_cast<Data*>(data);
}

struct Session
{
    Api const* mApi;
    KernelContext const* mContext;
    Status* mFailed;
};

// On the session's own threads: they spin while they wait, and would fight a second pool for the CPUs. How many they
// are is not told; the work is cut for one on each CPU.
inline void parallelFor(void* context, size_t count, cpu::ParallelFor::Body body, void* data)
{
    Session& session = *static_cast<Session*>(context);
    if (session.mFailed == nullptr)
    {
        session.mFailed = session.mApi->KernelContext_ParallelFor(session.mContext, body, count, 0, data);
    }
}

// What every operator answers alike: on the CPU, all inputs and outputs required, version 1.
inline void setDefaults(CustomOp& op)
{
    op.version = kAPI_VERSION;
    op.GetExecutionProviderType = [](CustomOp const*) -> char const* { return nullptr; };
    op.GetOutputTypeCount = [](CustomOp const*) -> size_t { return 1; };
    op.GetInputCharacteristic = op.GetOutputCharacteristic = op.GetInputMemoryType
        = [](CustomOp const*, size_t) { return 0; };
    op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](CustomOp const*) { return 1; };
    op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](CustomOp const*) { return 1; };
    op.GetStartVersion = op.GetEndVersion = [](CustomOp const*) { return 1; };
}

// One operator for each type of its maps. ONNX Runtime takes the one that fits the node, and holds on to it.
struct Op : CustomOp
{
    Api const* mApi;
    ElementType mType;
};

inline Op const& cast(CustomOp const* op)
{
    return *static_cast<Op const*>(op);
}

Op makeMixedGridSample(Api const* api, ElementType type);
Op makeWinogradConv(Api const* api, bool relu);

} // namespace posewarp::ort
