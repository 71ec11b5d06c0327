// Inner products of tokens.
#pragma once

namespace fsfast {

// Partial sums of a float64 sum.
constexpr int SUM_LANES = 16;

// <x, x> and <x, y>.
struct Products {
  double square, dot;
};

}  // namespace fsfast
