// Cholesky of sparse symmetric matrices: elimination of vertices of low degree, then a dense core.
//
// Vertices are eliminated in order of least degree in the graph that elimination leaves, until every degree is above a
// share of the vertices left; what is left is a dense matrix for a BLAS. Half of a random sparse graph is eliminated at
// almost no cost, nearly all of a planar one.
#pragma once

#include <cstdint>
#include <vector>

#include "dispatch.h"

namespace bitrelax {

// The plan: order[p] is the vertex at position p; the first `eliminated` positions are eliminated one by one, the rest
// is the core, ascending. Column p of the factor has its off-diagonal entries at positions rows[column[p]..column[p+1]).
struct EliminationPlan {
    std::int64_t eliminated = 0;
    std::vector<std::int32_t> order, rows;
    std::vector<std::int64_t> column;
};

struct Graph {
    std::int64_t n;
    const std::int32_t *start, *neighbours;  // CSR of a symmetric matrix without diagonal, indices ascending
};

// The factor's eliminated columns and the Schur complement of the core, from values and a diagonal.
struct Elimination {
    Graph graph;
    const double *values, *diagonal;  // diagonal by vertex
    std::int64_t eliminated;
    const std::int32_t *order, *rows;
    const std::int64_t* column;
    double* core;  // (c, c) row-major, c = n - eliminated; its lower triangle is written
};

// `work` bounds the sum of squared degrees, the operations of an elimination: beyond it the rest is the core.
EliminationPlan plan_elimination(const Graph&, double share, double work);

// False as soon as a pivot is not positive (or not a number).
#define BITRELAX_ELIMINATION bool eliminate(const Elimination&);

namespace portable {
BITRELAX_ELIMINATION
}
#ifdef BITRELAX_X86
namespace avx2 {
BITRELAX_ELIMINATION
}
namespace avx512 {
BITRELAX_ELIMINATION
}
#endif

}  // namespace bitrelax
