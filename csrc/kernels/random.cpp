#include "kernels/random.h"

#include "formulas/dropout.h"
#include "formulas/normal.h"
#include "formulas/trunc_normal.h"
#include "formulas/uniform.h"
#include "kernels/kernel.h"
#include "loops/draws.h"

namespace torchnotes {
namespace {

void dropout(c10::Device device, const DropoutNoise& a) { for_each_draw(device, Dropout(a.p), a); }
void normal(c10::Device device, const NormalNoise& a) { for_each_draw(device, Normal{a.mean, a.std}, a); }
void uniform(c10::Device device, const UniformNoise& a) { for_each_draw(device, Uniform{a.low, a.high}, a); }
void trunc_normal(c10::Device device, const TruncatedNormalNoise& a) {
  for_each_draw(device, TruncatedNormal(a.mean, a.std, a.low, a.high), a);
}

const RegisterKernel<DropoutNoise> kDropout(dropout);
const RegisterKernel<NormalNoise> kNormal(normal);
const RegisterKernel<UniformNoise> kUniform(uniform);
const RegisterKernel<TruncatedNormalNoise> kTruncatedNormal(trunc_normal);

}  // namespace
}  // namespace torchnotes
