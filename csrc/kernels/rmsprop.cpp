#include "kernels/rmsprop.h"

#include "formulas/rmsprop.h"
#include "kernels/kernel.h"
#include "loops/update.h"

namespace torchnotes {
namespace {

template <bool kCentered, bool kMomentum>
void update_by(c10::Device device, const RMSpropUpdate& a) {
  update(
      device, RMSprop<kCentered, kMomentum>{a.alpha, a.eps, a.momentum, a.weight_decay, a.decoupled_weight_decay}, a
  );
}

void rmsprop(c10::Device device, const RMSpropUpdate& a) {
  if (a.centered) {
    a.has_momentum_buffers ? update_by<true, true>(device, a) : update_by<true, false>(device, a);
  } else {
    a.has_momentum_buffers ? update_by<false, true>(device, a) : update_by<false, false>(device, a);
  }
}

const RegisterKernel<RMSpropUpdate> kRMSprop(rmsprop);

}  // namespace
}  // namespace torchnotes
