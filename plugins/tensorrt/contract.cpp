// The plugin's contract with TensorRT, checked on the library as it ships, without a TensorRT: this program plays the
// registry, the builder and the runtime. Without a GPU all is checked but the kernels, and it says so; with one,
// enqueue is called directly, and once more as a captured CUDA graph, against the core on the host.
#include "cuda/device.h"

#include <NvInferRuntime.h>

#include <memory>
#include <set>
#include <tuple>

using namespace nvinfer1;
using posewarp::cases::Case;
using posewarp::cases::Data;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

namespace
{

int gFailures = 0;

void expect(bool holds, std::string const& claim)
{
    if (!holds)
    {
        ++gFailures;
        std::printf("FAILED %s\n", claim.c_str());
    }
}

class Log : public ILogger, public ILoggerFinder
{
public:
    void log(Severity, char const* message) noexcept override
    {
        mText += message;
    }

    ILogger* findLogger() override
    {
        return this;
    }

    std::string take()
    {
        return std::exchange(mText, "");
    }

private:
    std::string mText;
};

Log gLog;

// After a refusal: the reason was logged, and names what was wrong.
void expectLogged(std::string const& words, std::string const& claim)
{
    std::string const log = gLog.take();
    expect(log.find(words) != std::string::npos, claim + ": expected a reason with '" + words + "', got '" + log + "'");
}

// ---- fields

using Fields = std::vector<PluginField>;

IPluginCreatorV3One& creator()
{
    int32_t count = 0;
    return *static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
}

std::unique_ptr<IPluginV3> create(Fields const& fields, TensorRTPhase phase = TensorRTPhase::kBUILD)
{
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    return std::unique_ptr<IPluginV3>(creator().createPlugin("warp", &collection, phase));
}

PluginField text(char const* name, std::string const& value, bool terminated = true)
{
    return {name, value.c_str(), PluginFieldType::kCHAR, static_cast<int32_t>(value.size() + terminated)};
}

PluginField number(char const* name, int32_t const& value)
{
    return {name, &value, PluginFieldType::kINT32, 1};
}

template <typename Capability> Capability& as(IPluginV3& plugin, PluginCapabilityType type)
{
    return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

IPluginV3OneBuild& build(IPluginV3& plugin)
{
    return as<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

IPluginV3OneRuntime& runtime(IPluginV3& plugin)
{
    return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

// Fields as an engine keeps them: name, type, length and bytes, apart from the plugin.
using Stored = std::vector<std::tuple<std::string, PluginFieldType, int32_t, std::string>>;

Stored store(IPluginV3& plugin)
{
    Stored stored;
    PluginFieldCollection const& fields = *runtime(plugin).getFieldsToSerialize();
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        PluginField const& field = fields.fields[i];
        size_t const bytes = field.length * (field.type == PluginFieldType::kCHAR ? 1 : 4);
        stored.emplace_back(field.name, field.type, field.length, std::string((char const*)field.data, bytes));
    }
    return stored;
}

std::unique_ptr<IPluginV3> restore(Stored const& stored)
{
    Fields fields;
    for (auto const& [name, type, length, bytes] : stored)
    {
        fields.emplace_back(name.c_str(), bytes.data(), type, length);
    }
    return create(fields, TensorRTPhase::kRUNTIME);
}

std::string const kMODES[]{"bilinear", "nearest", "bicubic"};
std::string const kPADDINGS[]{"zeros", "border", "reflection"};

void checkCreator()
{
    int32_t count = 0;
    getCreators(count);
    expect(count == 1, "one creator");
    expect(creator().getInterfaceInfo().kind == std::string("PLUGIN CREATOR_V3ONE"), "the creator is a V3 one");
    expect(creator().getPluginName() == std::string("MixedGridSample")
            && creator().getPluginVersion() == std::string("1")
            && creator().getPluginNamespace() == std::string("posewarp"),
        "name, version and namespace are the portable node's");
    std::set<std::string> names;
    PluginFieldCollection const& declared = *creator().getFieldNames();
    for (int32_t i = 0; i < declared.nbFields; ++i)
    {
        names.insert(declared.fields[i].name);
    }
    expect(names == std::set<std::string>{"mode", "padding_mode", "align_corners"}, "every field is declared");
}

void checkRoundTrips()
{
    std::set<std::string> timingIds;
    for (int i = 0; i < 18; ++i)
    {
        std::string const &mode = kMODES[i / 6], &padding = kPADDINGS[i / 2 % 3];
        int32_t const align = i % 2;
        int64_t const wide = align;
        std::string const claim = mode + "/" + padding + "/" + std::to_string(align);
        Stored const expected{
            {"mode", PluginFieldType::kCHAR, (int32_t)mode.size() + 1, mode + '\0'},
            {"padding_mode", PluginFieldType::kCHAR, (int32_t)padding.size() + 1, padding + '\0'},
            {"align_corners", PluginFieldType::kINT32, 1, std::string((char const*)&align, 4)},
        };
        auto plugin = create({text("mode", mode), text("padding_mode", padding), number("align_corners", align)});
        auto const other
            = create({{"align_corners", &wide, PluginFieldType::kINT64, 1}, text("padding_mode", padding, false),
                text("mode", mode, false), text("plugin_version", "1"), text("plugin_namespace", "posewarp")});
        if (!plugin || !other)
        {
            expect(false, claim + " is created, from text with and without NUL, int32 and int64: " + gLog.take());
            continue;
        }
        Stored const stored = store(*plugin);
        expect(stored == expected, claim + ": the fields to serialise are those given");
        expect(store(*other) == expected, claim + ": order, NUL and integer type do not matter");
        timingIds.insert(build(*plugin).getTimingCacheID());
        std::unique_ptr<IPluginV3> const clone(plugin->clone()), attached(runtime(*plugin).attachToContext(nullptr));
        expect(build(*clone).getTimingCacheID() == std::string(build(*plugin).getTimingCacheID()),
            claim + ": a clone has the timing-cache id");
        plugin.reset(); // what follows must not point into it
        expect(store(*clone) == expected && store(*attached) == expected, claim + ": clones have the same fields");
        auto const again = restore(stored);
        expect(again && store(*again) == expected, claim + ": deserialised as serialised");
        auto& core = as<IPluginV3OneCore>(*clone, PluginCapabilityType::kCORE);
        expect(core.getPluginName() == std::string("MixedGridSample") && core.getPluginVersion() == std::string("1")
                && core.getPluginNamespace() == std::string("posewarp"),
            claim + ": the plugin bears the creator's name");
    }
    expect(timingIds.size() == 18, "timing-cache ids tell all attributes apart");
}

void checkRefusedFields()
{
    int32_t const one = 1, two = 2, pair[]{1, 1};
    float const real = 1.0F;
    PluginField const mode = text("mode", kMODES[0]), padding = text("padding_mode", kPADDINGS[0]),
                      align = number("align_corners", one);
    std::string const linear = "linear", empty, version = "2", name = "other";
    std::vector<std::tuple<std::string, Fields>> const refusals{
        {"missing field mode", {padding, align}},
        {"missing field padding_mode", {mode, align}},
        {"missing field align_corners", {mode, padding}},
        {"missing field mode padding_mode align_corners", {}},
        {"unknown field extra", {mode, padding, align, number("extra", one)}},
        {"mode is given twice", {mode, mode, padding, align}},
        {"mode does not know linear", {text("mode", linear), padding, align}},
        {"padding_mode does not know linear", {mode, text("padding_mode", linear), align}},
        {"mode does not know", {text("mode", empty), padding, align}},
        {"mode must be text", {number("mode", one), padding, align}},
        {"mode must be text", {{"mode", nullptr, PluginFieldType::kCHAR, 8}, padding, align}},
        {"value 2", {mode, padding, number("align_corners", two)}},
        {"length 2", {mode, padding, {"align_corners", pair, PluginFieldType::kINT32, 2}}},
        {"align_corners must be", {mode, padding, {"align_corners", &real, PluginFieldType::kFLOAT32, 1}}},
        {"align_corners must be", {mode, padding, {"align_corners", nullptr, PluginFieldType::kINT32, 1}}},
        {"plugin_version does not know 2", {mode, padding, align, text("plugin_version", version)}},
        {"plugin_namespace does not know other", {mode, padding, align, text("plugin_namespace", name)}},
        {"unknown field (no name)", {mode, padding, align, {nullptr, &one, PluginFieldType::kINT32, 1}}},
    };
    for (auto const& [reason, fields] : refusals)
    {
        expect(create(fields) == nullptr, "refused: " + reason);
        expectLogged(reason, "refusal");
    }
    expect(creator().createPlugin(nullptr, nullptr, TensorRTPhase::kBUILD) == nullptr, "refused: no collection");
    gLog.take();
}

// ---- shapes

class Dimension : public IDimensionExpr
{
public:
    explicit Dimension(int64_t value)
        : mValue(value)
    {
        mImpl = &mValue;
    }

private:
    struct Value : apiv::VDimensionExpr
    {
        explicit Value(int64_t value)
            : value(value)
        {
        }

        bool isConstant() const override
        {
            return value >= 0;
        }

        int64_t getConstantValue() const override
        {
            return value;
        }

        bool isSizeTensor() const override
        {
            return false;
        }

        int64_t value;
    } mValue;
};

class Builder : public IExprBuilder
{
};

using Shape = std::vector<Dimension const*>;

DimsExprs exprs(Shape const& shape)
{
    DimsExprs dims{static_cast<int32_t>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

std::unique_ptr<IPluginV3> sampler(posewarp::Attributes const& attributes)
{
    int32_t const align = attributes.alignCorners;
    return create({text("mode", kMODES[(int)attributes.mode]), text("padding_mode", kPADDINGS[(int)attributes.padding]),
        number("align_corners", align)});
}

void checkShapes()
{
    Dimension const n(-1), c(61), d(7), h(-1), w(44), od(3), oh(-1), ow(5), two(2), three(3), unknown(-1);
    Builder builder;
    auto const shapes
        = [&](posewarp::Mode mode, Shape const& features, Shape const& grid, DimsExprs& out, int inputs = 2)
    {
        DimsExprs const in[]{exprs(features), exprs(grid)};
        auto const plugin = sampler({mode, posewarp::Padding::kZEROS, false});
        return build(*plugin).getOutputShapes(in, inputs, nullptr, 0, &out, 1, builder);
    };
    for (Dimension const* last : {&two, &unknown})
    {
        DimsExprs out{};
        expect(shapes(posewarp::Mode::kBICUBIC, {&n, &c, &h, &w}, {&n, &oh, &ow, last}, out) == 0 && out.nbDims == 4
                && out.d[0] == &n && out.d[1] == &c && out.d[2] == &oh && out.d[3] == &ow,
            "4-D output has N, C of the features and the sizes of the grid");
    }
    DimsExprs out{};
    expect(shapes(posewarp::Mode::kNEAREST, {&n, &c, &d, &h, &w}, {&n, &od, &oh, &ow, &three}, out) == 0
            && out.nbDims == 5 && out.d[0] == &n && out.d[1] == &c && out.d[2] == &od && out.d[3] == &oh
            && out.d[4] == &ow,
        "5-D output has N, C of the features and the sizes of the grid");
    std::vector<std::tuple<std::string, posewarp::Mode, Shape, Shape, int>> const refusals{
        {"3 and 4 dimensions", posewarp::Mode::kBILINEAR, {&n, &c, &w}, {&n, &oh, &ow, &two}, 2},
        {"4 and 5 dimensions", posewarp::Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &od, &oh, &ow, &three}, 2},
        {"must be 2, got 3", posewarp::Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &oh, &ow, &three}, 2},
        {"bicubic", posewarp::Mode::kBICUBIC, {&n, &c, &d, &h, &w}, {&n, &od, &oh, &ow, &three}, 2},
        {"expected 2 inputs", posewarp::Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &oh, &ow, &two}, 1},
    };
    for (auto const& [reason, mode, features, grid, inputs] : refusals)
    {
        expect(shapes(mode, features, grid, out, inputs) != 0, "refused: " + reason);
        expectLogged(reason, "refusal");
    }
}

// ---- types and formats

using Kind = std::tuple<DataType, TensorFormat>;

std::set<Kind> const kFOR_IMAGES{{DataType::kFLOAT, TensorFormat::kLINEAR}, {DataType::kHALF, TensorFormat::kLINEAR},
    {DataType::kHALF, TensorFormat::kHWC8}, {DataType::kBF16, TensorFormat::kLINEAR}};

void checkFormats()
{
    std::vector<Kind> kinds;
    for (int32_t type = 0; type < EnumMax<DataType>(); ++type)
    {
        for (int32_t format = 0; format < EnumMax<TensorFormat>(); ++format)
        {
            kinds.emplace_back(static_cast<DataType>(type), static_cast<TensorFormat>(format));
        }
    }
    auto const plugin = sampler({posewarp::Mode::kBILINEAR, posewarp::Padding::kZEROS, false});
    for (int32_t const rank : {4, 5})
    {
        std::set<Kind> expected = kFOR_IMAGES;
        if (rank == 5)
        {
            expected.erase({DataType::kHALF, TensorFormat::kHWC8});
        }
        DynamicPluginTensorDesc inOut[3]{};
        auto const supports = [&](int32_t pos, Kind const& kind)
        {
            std::tie(inOut[pos].desc.type, inOut[pos].desc.format) = kind;
            return build(*plugin).supportsFormatCombination(pos, inOut, 2, 1);
        };
        for (auto& tensor : inOut)
        {
            tensor.desc.dims.nbDims = rank;
        }
        std::set<Kind> taken;
        for (Kind const& features : kinds)
        {
            if (!supports(0, features))
            {
                continue;
            }
            taken.insert(features);
            for (Kind const& other : kinds)
            {
                expect(supports(1, other) == (other == Kind{DataType::kFLOAT, TensorFormat::kLINEAR}),
                    "the grid is fp32, linear, and nothing else");
                supports(1, {DataType::kFLOAT, TensorFormat::kLINEAR});
                expect(supports(2, other) == (other == features), "the output is as the features");
            }
        }
        expect(
            taken == expected, "features of " + std::to_string(rank) + "-D are taken in all promised kinds, no other");
    }
    for (int32_t type = 0; type < EnumMax<DataType>(); ++type)
    {
        for (int32_t grid = 0; grid < EnumMax<DataType>(); ++grid)
        {
            DataType const inputs[]{static_cast<DataType>(type), static_cast<DataType>(grid)};
            DataType output = DataType::kBOOL;
            bool const good
                = kFOR_IMAGES.count({inputs[0], TensorFormat::kLINEAR}) > 0 && inputs[1] == DataType::kFLOAT;
            expect((build(*plugin).getOutputDataTypes(&output, 1, inputs, 2) == 0) == good
                    && (!good || output == inputs[0]),
                "the output has the features' type");
            if (!good)
            {
                expectLogged("features must be fp32, fp16 or bf16 and grid fp32", "types");
            }
        }
    }
    gLog.take();
}

// ---- enqueue

struct Call
{
    PluginTensorDesc in[2]{};
    PluginTensorDesc out[1]{};
};

Call describe(Case const& test)
{
    static constexpr DataType kTYPES[]{DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
    posewarp::Sizes const& s = test.sizes;
    Call call;
    call.in[0].type = call.out[0].type = kTYPES[(int)test.type];
    call.in[0].format = call.out[0].format
        = test.layout == posewarp::Layout::kHWC8 ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
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

void checkEnqueueRefusals()
{
    Case const test{{2, 2, 5, 1, 8, 6, 1, 3, 4}, {}, posewarp::Type::kHALF, posewarp::Layout::kHWC8};
    auto const plugin = sampler(test.attributes);
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
    Case const empty{{2, 0, 5, 1, 8, 6, 1, 3, 4}, {}, posewarp::Type::kFLOAT, posewarp::Layout::kNCHW};
    expect(enqueue(*plugin, describe(empty), nullptr, nullptr, nullptr, nullptr) == 0,
        "an empty output returns at once, from null pointers too");
}

// Once directly, then as a CUDA graph, whose capture fails if enqueue allocates, synchronises or uses another stream.
std::string enqueueTwice(Case const& test, void* features, void* grid, void* output, cudaStream_t stream)
{
    auto const plugin = sampler(test.attributes);
    Call const call = describe(test);
    if (enqueue(*plugin, call, features, grid, output, stream) != 0)
    {
        return "enqueue failed: " + gLog.take();
    }
    size_t const bytes = test.sizes.batch * test.lanes() * test.sizes.outPixels() * test.elementBytes();
    cudaMemsetAsync(output, 0xFF, bytes, stream);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    int32_t const failed = enqueue(*plugin, call, features, grid, output, stream);
    cudaError_t error = cudaStreamEndCapture(stream, &graph);
    error = error == cudaSuccess ? cudaGraphInstantiate(&executable, graph, 0) : error;
    error = error == cudaSuccess ? cudaGraphLaunch(executable, stream) : error;
    cudaStreamSynchronize(stream);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    return failed != 0         ? "enqueue failed under capture: " + gLog.take()
        : error != cudaSuccess ? std::string("as a graph: ") + cudaGetErrorString(error)
                               : "";
}

} // namespace

int main()
{
    setLoggerFinder(&gLog);
    checkCreator();
    checkRoundTrips();
    checkRefusedFields();
    checkShapes();
    checkFormats();
    checkEnqueueRefusals();
    if (std::string const problem = posewarp::cases::findDeviceProblem(); !problem.empty())
    {
        std::printf("enqueue: not executed, %s\n", problem.c_str());
    }
    else
    {
        std::vector<Case> const tests = posewarp::cases::makeCases(/*crowds=*/false);
        int const failures = posewarp::cases::countFailures(tests, posewarp::cases::onDevice(enqueueTwice));
        std::printf("enqueue: %zu cases, %d failed\n", tests.size(), failures);
        gFailures += failures;
    }
    std::printf("contract: %s\n", gFailures == 0 ? "kept" : "broken");
    return gFailures == 0 ? 0 : 1;
}
