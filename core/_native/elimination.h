// Cholesky of sparse symmetric matrices: elimination of vertices of low degree, then a dense core.
#pragma once

#include "dispatch.h"
