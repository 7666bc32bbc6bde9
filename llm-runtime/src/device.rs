//! What a model runs on.

use candle_core::DeviceLocation;

use crate::error::RunError;

/// The processor, or an accelerator. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Device(candle_core::Device);

impl Device {
    /// The processor.
    pub const CPU: Self = Self(candle_core::Device::Cpu);

    /// A CUDA device by its number, from 0.
    ///
    /// # Errors
    /// No such device, or a build without the feature `cuda`.
    pub fn cuda(number: usize) -> Result<Self, RunError> {
        #[cfg(feature = "cuda")]
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(false);
        // Passes run on whatever thread is free and rows are fetched by another: what they enqueue has to keep its
        // order, which it does not in candle's usual stream, one of each thread's own.
        Ok(Self(candle_core::Device::new_cuda_with_stream(number)?))
    }

    /// The name that users see.
    pub fn name(&self) -> &'static str {
        match self.0.location() {
            DeviceLocation::Cpu => "cpu",
            DeviceLocation::Cuda { .. } => "cuda",
            DeviceLocation::Metal { .. } => "metal",
        }
    }

    pub(crate) const fn tensors(&self) -> &candle_core::Device {
        &self.0
    }
}
