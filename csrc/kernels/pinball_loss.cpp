#include "kernels/pinball_loss.h"

#include "formulas/pinball_loss.h"
#include "kernels/elementwise_loss_functions.h"
#include "kernels/kernel.h"

namespace torchnotes {
namespace {

// x, y, tau, 1 - tau and perhaps weights
void pinball_loss(c10::Device device, const PinballLoss& a) { elementwise_loss<4, 5>(device, Pinball{a.smoothing}, a); }

void pinball_loss_gradient(c10::Device device, const PinballLossGradient& a) {
  elementwise_loss_gradient<4, 5>(device, PinballBackward{a.smoothing}, a);
}

const RegisterKernel<PinballLoss> kPinballLoss(pinball_loss);
const RegisterKernel<PinballLossGradient> kPinballLossGradient(pinball_loss_gradient);

}  // namespace
}  // namespace torchnotes
