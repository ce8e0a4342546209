#include "tensorrt/contract/contract.h"

namespace posewarp::contract
{
namespace
{

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

using Kind = std::tuple<DataType, TensorFormat>;

std::set<Kind> const kFOR_IMAGES{{DataType::kFLOAT, TensorFormat::kLINEAR}, {DataType::kHALF, TensorFormat::kLINEAR},
    {DataType::kHALF, TensorFormat::kHWC8}, {DataType::kBF16, TensorFormat::kLINEAR}};

} // namespace

void checkShapes()
{
    Dimension const n(-1), c(61), d(7), h(-1), w(44), od(3), oh(-1), ow(5), two(2), three(3), unknown(-1);
    Builder builder;
    auto const shapes = [&](Mode mode, Shape const& features, Shape const& grid, DimsExprs& out, int inputs = 2)
    {
        DimsExprs const in[]{exprs(features), exprs(grid)};
        auto const plugin = create({mode, Padding::kZEROS, false});
        return build(*plugin).getOutputShapes(in, inputs, nullptr, 0, &out, 1, builder);
    };
    for (Dimension const* last : {&two, &unknown})
    {
        DimsExprs out{};
        expect(shapes(Mode::kBICUBIC, {&n, &c, &h, &w}, {&n, &oh, &ow, last}, out) == 0 && out.nbDims == 4
                && out.d[0] == &n && out.d[1] == &c && out.d[2] == &oh && out.d[3] == &ow,
            "4-D output has N, C of the features and the sizes of the grid");
    }
    DimsExprs out{};
    expect(shapes(Mode::kNEAREST, {&n, &c, &d, &h, &w}, {&n, &od, &oh, &ow, &three}, out) == 0 && out.nbDims == 5
            && out.d[0] == &n && out.d[1] == &c && out.d[2] == &od && out.d[3] == &oh && out.d[4] == &ow,
        "5-D output has N, C of the features and the sizes of the grid");
    std::vector<std::tuple<std::string, Mode, Shape, Shape, int>> const refusals{
        {"3 and 4 dimensions", Mode::kBILINEAR, {&n, &c, &w}, {&n, &oh, &ow, &two}, 2},
        {"4 and 5 dimensions", Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &od, &oh, &ow, &three}, 2},
        {"must be 2, got 3", Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &oh, &ow, &three}, 2},
        {"bicubic", Mode::kBICUBIC, {&n, &c, &d, &h, &w}, {&n, &od, &oh, &ow, &three}, 2},
        {"expected 2 inputs", Mode::kBILINEAR, {&n, &c, &h, &w}, {&n, &oh, &ow, &two}, 1},
    };
    for (auto const& [reason, mode, features, grid, inputs] : refusals)
    {
        expect(shapes(mode, features, grid, out, inputs) != 0, "refused: " + reason);
        expectLogged(reason, "refusal");
    }
}

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
    auto const plugin = create({Mode::kBILINEAR, Padding::kZEROS, false});
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
    takeLog();
}

} // namespace posewarp::contract
