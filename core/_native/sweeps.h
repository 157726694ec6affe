// The hot loops of low-rank descent on min <C, VV'>, rows of V of length 1: sweeps, products, vector updates.
#pragma once

#include "dispatch.h"
