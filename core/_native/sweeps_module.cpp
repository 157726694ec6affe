// Bindings of sweeps.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "sweeps.h"

namespace nb = nanobind;

void bind_sweeps(nb::module_&) {}
