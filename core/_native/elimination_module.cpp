// Bindings of elimination.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "elimination.h"

namespace nb = nanobind;

void bind_elimination(nb::module_&) {}
