// Apart from the other activations, because it is compiled for AVX2 only (docs/decisions/avx2-is-enough.md).
#include "kernels/kernel.h"
#include "kernels/map_activation.h"

namespace torchnotes {
namespace {

void rectifier(c10::Device device, const RectifierMap& a) { map_chosen</*only_rectifiers=*/true>(device, a); }

const RegisterKernel<RectifierMap> kRectifier(rectifier);

}  // namespace
}  // namespace torchnotes
