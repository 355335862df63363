#pragma once

#include "loops/noise.h"

namespace torchnotes {

struct DropoutNoise : Noise {
  double p;
};

struct NormalNoise : Noise {
  double mean, std;
};

struct UniformNoise : Noise {
  double low, high;
};

struct TruncatedNormalNoise : Noise {
  double mean, std, low, high;
};

}  // namespace torchnotes
