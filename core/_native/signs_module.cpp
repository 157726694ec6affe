// Bindings of signs.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "signs.h"

namespace nb = nanobind;

void bind_signs(nb::module_&) {}
