// The native code of packed networks as a module of its own, to be built under a sanitizer.
#include <nanobind/nanobind.h>

#include "bitsum.h"

void bind_packed(nanobind::module_&);

NB_MODULE(_kernels, m) {
    m.def("best_packed_level", [] { return static_cast<int>(bitrelax::best_packed_level()); });
    bind_packed(m);
}
