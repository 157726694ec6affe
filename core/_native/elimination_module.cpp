// The symbolic phase of elimination.h, and its bindings.
#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "checks.h"
#include "elimination.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bitrelax;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Square = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::object owned(std::vector<T> values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

// Whether start holds offsets into an array of that many entries: from 0, never falling.
template <class T>
bool offsets(const Array<T>& start, std::size_t entries) {
    const T* begin = start.data();
    return start.size() >= 1 && begin[0] == 0 && std::is_sorted(begin, begin + start.size()) &&
           static_cast<std::size_t>(begin[start.size() - 1]) == entries;
}

bool within(const Array<std::int32_t>& indices, std::int64_t n) {
    return std::all_of(indices.data(), indices.data() + indices.size(), [n](auto i) { return i >= 0 && i < n; });
}

bool permutation(const Array<std::int32_t>& order, std::int64_t n) {
    if (static_cast<std::int64_t>(order.size()) != n || !within(order, n)) return false;
    std::vector<char> seen(n, 0);
    for (std::size_t p = 0; p < order.size(); ++p) seen[order.data()[p]] = 1;
    return std::find(seen.begin(), seen.end(), 0) == seen.end();
}

Graph graph_of(const Array<std::int32_t>& start, const Array<std::int32_t>& neighbours) {
    require(offsets(start, neighbours.size()), "elimination: start must rise from 0 to the number of neighbours");
    const std::int64_t n = static_cast<std::int64_t>(start.size()) - 1;
    require(within(neighbours, n), "elimination: neighbours must be in 0..n-1");
    return {n, start.data(), neighbours.data()};
}

// The rows of each column ascend, below its diagonal.
bool lower(const Array<std::int64_t>& column, const Array<std::int32_t>& rows) {
    for (std::size_t p = 0; p + 1 < column.size(); ++p) {
        std::int64_t before = static_cast<std::int64_t>(p);
        for (std::int64_t e = column.data()[p]; e < column.data()[p + 1]; before = rows.data()[e++])
            if (rows.data()[e] <= before) return false;
    }
    return true;
}

void check_plan(std::int64_t n, std::int64_t eliminated, const Array<std::int32_t>& order,
                const Array<std::int64_t>& column, const Array<std::int32_t>& rows) {
    require(eliminated >= 0 && eliminated <= n, "elimination: eliminated must be in 0..n");
    require(permutation(order, n), "elimination: order must be a permutation of 0..n-1");
    require(static_cast<std::int64_t>(column.size()) == eliminated + 1 && offsets(column, rows.size()),
            "elimination: column must rise from 0 to the number of rows, in eliminated + 1 entries");
    require(within(rows, n) && lower(column, rows), "elimination: rows of a column must ascend, from below it to n-1");
}

}  // namespace

namespace bitrelax {

EliminationPlan plan_elimination(const Graph& graph, double share, double work) {
    using Index = std::int32_t;
    const std::int64_t n = graph.n;
    using Entry = std::pair<Index, Index>;  // degree, vertex: ties by vertex, so the plan is one
    std::vector<std::vector<Index>> adjacent(n), columns;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> by_degree;  // with entries of older degrees
    for (Index v = 0; v < n; ++v) {
        adjacent[v].assign(graph.neighbours + graph.start[v], graph.neighbours + graph.start[v + 1]);
        by_degree.emplace(static_cast<Index>(adjacent[v].size()), v);
    }
    EliminationPlan plan;
    std::vector<char> gone(n, 0), in_clique(n, 0);
    while (!by_degree.empty()) {
        const auto [degree, v] = by_degree.top();
        by_degree.pop();
        if (gone[v] || degree != static_cast<Index>(adjacent[v].size())) continue;
        if (degree > share * static_cast<double>(n - static_cast<std::int64_t>(columns.size()))) break;
        work -= static_cast<double>(degree) * degree;
        if (work < 0) break;
        gone[v] = 1;
        plan.order.push_back(v);
        columns.push_back(std::move(adjacent[v]));
        const std::vector<Index>& clique = columns.back();
        for (const Index u : clique) in_clique[u] = 1;
        for (const Index u : clique) {  // its neighbours become the clique and those it had outside
            std::vector<Index>& own = adjacent[u];
            std::size_t kept = 0;
            for (const Index w : own) {
                own[kept] = w;
                kept += !in_clique[w] && w != v;
            }
            own.resize(kept);
            const std::size_t self = std::find(clique.begin(), clique.end(), u) - clique.begin();
            own.insert(own.end(), clique.begin(), clique.begin() + self);
            own.insert(own.end(), clique.begin() + self + 1, clique.end());
            by_degree.emplace(static_cast<Index>(own.size()), u);
        }
        for (const Index u : clique) in_clique[u] = 0;
    }
    plan.eliminated = static_cast<std::int64_t>(plan.order.size());
    std::vector<Index> position(n, -1);
    for (std::int64_t p = 0; p < plan.eliminated; ++p) position[plan.order[p]] = static_cast<Index>(p);
    for (Index v = 0; v < n; ++v)
        if (position[v] < 0) {
            position[v] = static_cast<Index>(plan.order.size());
            plan.order.push_back(v);
        }
    plan.column.push_back(0);
    for (std::vector<Index>& column : columns) {
        for (Index& v : column) v = position[v];
        std::sort(column.begin(), column.end());
        plan.rows.insert(plan.rows.end(), column.begin(), column.end());
        plan.column.push_back(static_cast<std::int64_t>(plan.rows.size()));
    }
    return plan;
}

}  // namespace bitrelax

void bind_elimination(nb::module_& m) {
    m.def(
        "plan_elimination",
        [](Array<std::int32_t> start, Array<std::int32_t> neighbours, double share, double work) {
            const Graph graph = graph_of(start, neighbours);
            EliminationPlan plan;
            {
                const nb::gil_scoped_release unlocked;
                plan = plan_elimination(graph, share, work);
            }
            return nb::make_tuple(plan.eliminated, owned(std::move(plan.order)), owned(std::move(plan.column)),
                                  owned(std::move(plan.rows)));
        },
        "start"_a, "neighbours"_a, "share"_a, "work"_a);
    m.def(
        "eliminate",
        [](int level, Array<std::int32_t> start, Array<std::int32_t> neighbours, Array<double> values,
           Array<double> diagonal, std::int64_t eliminated, Array<std::int32_t> order, Array<std::int64_t> column,
           Array<std::int32_t> rows, Square core) {
            const auto kernel = BITRELAX_AT(level_of(level), eliminate);
            const Graph graph = graph_of(start, neighbours);
            const auto n = static_cast<std::size_t>(graph.n);
            require(values.size() == neighbours.size() && diagonal.size() == n,
                    "elimination: there must be one value a neighbour, and n entries on the diagonal");
            check_plan(graph.n, eliminated, order, column, rows);
            const std::size_t left = n - static_cast<std::size_t>(eliminated);
            require(core.shape(0) == left && core.shape(1) == left, "elimination: core must be square, n - eliminated");
            const Elimination arguments{graph,        values.data(), diagonal.data(), eliminated,
                                        order.data(), rows.data(),   column.data(),   core.data()};
            const nb::gil_scoped_release unlocked;
            return kernel(arguments);
        },
        "level"_a, "start"_a, "neighbours"_a, "values"_a, "diagonal"_a, "eliminated"_a, "order"_a, "column"_a,
        "rows"_a, "core"_a.noconvert());
}
