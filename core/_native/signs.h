// Searches over sign vectors: one-flip descent, tabu, enumeration in Gray code.
#pragma once

#include "dispatch.h"
