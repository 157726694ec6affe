// Searches over sign vectors: one-flip descent, tabu, enumeration in Gray code. Compiled once a CPU level.
#include "signs.h"

namespace bitrelax::BITRELAX_LEVEL {}
