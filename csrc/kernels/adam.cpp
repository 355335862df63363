#include "kernels/adam.h"

#include "formulas/adam.h"
#include "kernels/kernel.h"
#include "loops/update.h"

namespace torchnotes {
namespace {

void adam(c10::Device device, const AdamUpdate& a) {
  if (a.amsgrad) {
    update(device, Adam<true>{a.beta1, a.beta2, a.eps, a.weight_decay, a.decoupled_weight_decay}, a);
  } else {
    update(device, Adam<false>{a.beta1, a.beta2, a.eps, a.weight_decay, a.decoupled_weight_decay}, a);
  }
}

const RegisterKernel<AdamUpdate> kAdam(adam);

}  // namespace
}  // namespace torchnotes
