// The part of ONNX Runtime's C API that the operator uses, declared here because no package ships its headers.
//
// ONNX Runtime hands out one table of functions and a custom operator hands in another; both only ever grow at the
// end, so a slot keeps its place. Version 17 (ONNX Runtime 1.17) is the first with KernelContext_ParallelFor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace posewarp::ort
{

constexpr uint32_t kAPI_VERSION = 17;

enum ErrorCode : int
{
    kFAIL = 1,
    kINVALID_ARGUMENT = 2,
};

enum ElementType : int
{
    kFLOAT = 1,
    kFLOAT16 = 10,
    kBFLOAT16 = 16,
};

struct Attribute;
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct ShapeContext;
struct Status; // null is success
struct TypeAndShape;
struct Value;

struct Api
{
    Status* (*CreateStatus)(ErrorCode code, char const* message); // slot 0
    void* mUnused1[25];
    Status* (*CreateCustomOpDomain)(char const* domain, CustomOpDomain** out); // 26
    Status* (*CustomOpDomain_Add)(CustomOpDomain* domain, struct CustomOp const* op);
    Status* (*AddCustomOpDomain)(SessionOptions* options, CustomOpDomain* domain);
    void* mUnused29[22];
    Status* (*GetTensorMutableData)(Value* value, void** out); // 51
    void* mUnused52[5];
    Status* (*CreateTensorTypeAndShapeInfo)(TypeAndShape** out); // 57
    Status* (*SetTensorElementType)(TypeAndShape* info, ElementType type);
    Status* (*SetDimensions)(TypeAndShape* info, int64_t const* sizes, size_t count);
    Status* (*GetTensorElementType)(TypeAndShape const* info, ElementType* out); // 60
    Status* (*GetDimensionsCount)(TypeAndShape const* info, size_t* out);
    Status* (*GetDimensions)(TypeAndShape const* info, int64_t* out, size_t count);
    Status* (*GetSymbolicDimensions)(TypeAndShape const* info, char const** out, size_t count);
    void* mUnused64[1];
    Status* (*GetTensorTypeAndShape)(Value const* value, TypeAndShape** out); // 65
    void* mUnused66[20];
    Status* (*KernelInfoGetAttribute_int64)(KernelInfo const* info, char const* name, int64_t* out); // 86
    Status* (*KernelInfoGetAttribute_string)(KernelInfo const* info, char const* name, char* out, size_t* size);
    void* mUnused88[2];
    Status* (*KernelContext_GetInput)(KernelContext const* context, size_t index, Value const** out); // 90
    Status* (*KernelContext_GetOutput)(
        KernelContext* context, size_t index, int64_t const* sizes, size_t count, Value** out);
    void* mUnused92[1];
    void (*ReleaseStatus)(Status* status); // 93
    void* mUnused94[5];
    void (*ReleaseTensorTypeAndShapeInfo)(TypeAndShape* info); // 99
    void* mUnused100[1];
    void (*ReleaseCustomOpDomain)(CustomOpDomain* domain); // 101
    void* mUnused102[147];
    // 249; the value stays the session's
    Status* (*KernelInfoGetConstantInput_tensor)(
        KernelInfo const* info, size_t index, int* isConstant, Value const** out);
    void* mUnused250[18];
    // 268; the shape stays the context's
    Status* (*ShapeInferContext_GetInputTypeShape)(ShapeContext const* context, size_t index, TypeAndShape** out);
    void* mUnused269[1];
    Status* (*ShapeInferContext_SetOutputTypeShape)(
        ShapeContext const* context, size_t index, TypeAndShape const* info);
    Status* (*SetSymbolicDimensions)(TypeAndShape* info, char const** names, size_t count); // 271
    void* mUnused272[2];
    // 274; calls task(data, i) for each i below total, on the session's own threads; batches 0 lets it choose
    Status* (*KernelContext_ParallelFor)(
        KernelContext const* context, void (*task)(void* data, size_t i), size_t total, size_t batches, void* data);
};

static_assert(offsetof(Api, CreateCustomOpDomain) == 26 * sizeof(void*));
static_assert(offsetof(Api, GetTensorMutableData) == 51 * sizeof(void*));
static_assert(offsetof(Api, GetTensorElementType) == 60 * sizeof(void*));
static_assert(offsetof(Api, GetTensorTypeAndShape) == 65 * sizeof(void*));
static_assert(offsetof(Api, KernelInfoGetAttribute_int64) == 86 * sizeof(void*));
static_assert(offsetof(Api, KernelContext_GetInput) == 90 * sizeof(void*));
static_assert(offsetof(Api, ReleaseTensorTypeAndShapeInfo) == 99 * sizeof(void*));
static_assert(offsetof(Api, ShapeInferContext_GetInputTypeShape) == 268 * sizeof(void*));
static_assert(offsetof(Api, KernelContext_ParallelFor) == 274 * sizeof(void*));

struct ApiBase
{
    Api const* (*GetApi)(uint32_t version); // null if this ONNX Runtime is older than that
    char const* (*GetVersionString)();
};

// What ONNX Runtime asks of an operator. Slots that a later version added are not read: version says so.
struct CustomOp
{
    uint32_t version;
    void* mCreateKernel; // the form that cannot report errors; not used if the other one is there
    char const* (*GetName)(CustomOp const*);
    char const* (*GetExecutionProviderType)(CustomOp const*); // null: the CPU's
    ElementType (*GetInputType)(CustomOp const*, size_t index);
    size_t (*GetInputTypeCount)(CustomOp const*);
    ElementType (*GetOutputType)(CustomOp const*, size_t index);
    size_t (*GetOutputTypeCount)(CustomOp const*);
    void* mKernelCompute; // as mCreateKernel
    void (*KernelDestroy)(void* kernel);
    int (*GetInputCharacteristic)(CustomOp const*, size_t index); // 0: required
    int (*GetOutputCharacteristic)(CustomOp const*, size_t index);
    int (*GetInputMemoryType)(CustomOp const*, size_t index); // 0: where the kernel runs
    int (*GetVariadicInputMinArity)(CustomOp const*);
    int (*GetVariadicInputHomogeneity)(CustomOp const*);
    int (*GetVariadicOutputMinArity)(CustomOp const*);
    int (*GetVariadicOutputHomogeneity)(CustomOp const*);
    Status* (*CreateKernel)(CustomOp const*, Api const*, KernelInfo const*, void** kernel);
    Status* (*KernelCompute)(void* kernel, KernelContext* context);
    Status* (*InferOutputShape)(CustomOp const*, ShapeContext* context);
    int (*GetStartVersion)(CustomOp const*);
    int (*GetEndVersion)(CustomOp const*);
};

} // namespace posewarp::ort
