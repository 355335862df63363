#include "kernels/sgd.h"

#include "formulas/sgd.h"
#include "kernels/kernel.h"
#include "loops/update.h"

namespace torchnotes {
namespace {

void sgd(c10::Device device, const SGDUpdate& a) {
  if (a.has_momentum_buffers) {
    update(device, SGD<true>{a.momentum, a.dampening, a.weight_decay, a.nesterov, a.first}, a);
  } else {
    update(device, SGD<false>{0, 0, a.weight_decay, false, false}, a);
  }
}

const RegisterKernel<SGDUpdate> kSGD(sgd);

}  // namespace
}  // namespace torchnotes
