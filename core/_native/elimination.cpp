// The numerical phase of elimination.h: left-looking over the eliminated columns, then the core's Schur complement.
// Compiled once a CPU level.
#include "elimination.h"

#include <cmath>

namespace bitrelax::BITRELAX_LEVEL {
namespace {

using Index = std::int32_t;
using Offset = std::int64_t;

// Columns waiting for the position of their next row: one singly linked list a position.
class Waiting {
   public:
    explicit Waiting(Offset positions) : first_(positions, -1), next_(positions, -1) {}
    void add(Index position, Index column) {
        next_[column] = first_[position];
        first_[position] = column;
    }
    Index first(Index position) const { return first_[position]; }
    Index next(Index column) const { return next_[column]; }

   private:
    std::vector<Index> first_, next_;
};

}  // namespace

bool eliminate(const Elimination& a) {
    const Offset n = a.graph.n, m = a.eliminated, c = n - m;
    std::vector<Index> position(n);
    for (Offset p = 0; p < n; ++p) position[a.order[p]] = static_cast<Index>(p);
    for (Offset p = m; p < n; ++p) {  // the core as it is
        const Index v = a.order[p];
        double* row = a.core + (p - m) * c;
        for (Offset q = 0; q <= p - m; ++q) row[q] = 0.0;
        for (Index e = a.graph.start[v]; e < a.graph.start[v + 1]; ++e) {
            const Index q = position[a.graph.neighbours[e]];
            if (q >= m && q < p) row[q - m] = a.values[e];
        }
        row[p - m] = a.diagonal[v];
    }
    std::vector<double> factor(a.column[m]), work(n, 0.0);
    std::vector<Offset> reached(m);
    Waiting waiting(m);
    for (Index p = 0; p < m; ++p) {
        const Index v = a.order[p];
        const Offset begin = a.column[p], end = a.column[p + 1];
        for (Index e = a.graph.start[v]; e < a.graph.start[v + 1]; ++e) {
            const Index q = position[a.graph.neighbours[e]];
            if (q > p) work[q] = a.values[e];
        }
        double pivot = a.diagonal[v];
        for (Index k = waiting.first(p), following; k >= 0; k = following) {
            following = waiting.next(k);
            const Offset at = reached[k], last = a.column[k + 1];
            const double l = factor[at];
            pivot -= l * l;
            for (Offset e = at + 1; e < last; ++e) work[a.rows[e]] -= l * factor[e];
            reached[k] = at + 1;
            if (at + 1 < last && a.rows[at + 1] < m) waiting.add(a.rows[at + 1], k);
        }
        if (!(pivot > 0.0)) return false;
        const double root = std::sqrt(pivot);
        for (Offset e = begin; e < end; ++e) {
            factor[e] = work[a.rows[e]] / root;
            work[a.rows[e]] = 0.0;
        }
        reached[p] = begin;
        if (begin < end && a.rows[begin] < m) waiting.add(a.rows[begin], p);
    }
    for (Offset k = 0; k < m; ++k) {
        const Offset end = a.column[k + 1];
        for (Offset e = reached[k]; e < end; ++e) {
            double* row = a.core + (a.rows[e] - m) * c - m;
            const double l = factor[e];
            for (Offset f = reached[k]; f <= e; ++f) row[a.rows[f]] -= l * factor[f];
        }
    }
    return true;
}

}  // namespace bitrelax::BITRELAX_LEVEL
