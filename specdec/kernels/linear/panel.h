// Weights are packed in panels of output columns.
#pragma once

#include "../cpu/simd.h"

constexpr int PANEL = 32;
constexpr int NV = PANEL / W;  // vectors across a panel
