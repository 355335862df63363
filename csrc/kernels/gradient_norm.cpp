#include "kernels/gradient_norm.h"

#include "kernels/kernel.h"
#include "loops/squares.h"

namespace torchnotes {
namespace {

void gradient_norm(c10::Device device, const GradientNorm& a) {
  norm_of_arrays(device, a.arrays, a.count, a.type, a.norm);
}

const RegisterKernel<GradientNorm> kGradientNorm(gradient_norm);

}  // namespace
}  // namespace torchnotes
