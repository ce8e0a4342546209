#include "tensorrt/contract/contract.h"

namespace posewarp::contract
{
namespace
{

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

} // namespace

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
            expect(false, claim + " is created, from text with and without NUL, int32 and int64: " + takeLog());
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
    takeLog();
}

} // namespace posewarp::contract
