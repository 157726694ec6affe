// Cholesky of sparse symmetric matrices: elimination of vertices of low degree, then a dense core. Compiled once a CPU level.
#include "elimination.h"

namespace bitrelax::BITRELAX_LEVEL {}
