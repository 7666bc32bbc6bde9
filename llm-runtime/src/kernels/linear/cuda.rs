//! Products on a CUDA device, by cuBLAS.

use std::ffi::c_void;
use std::ptr::from_ref;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, bail};
use half::bf16;

/// `x w^T` of rows `[n, inputs]` and weights `[outputs, inputs]`, bf16 or f32: f32 `[n, outputs]`.
///
/// Rows take the type of the weights, in which they lose nothing: where weights are bf16, so are activations.
/// The sums are f32, and that is why this is not candle's product of bf16 tensors: its output is bf16, and then
/// cuBLAS may add up partial sums in bf16, which no profile allows.
pub(super) fn product(
    rows: &CudaStorage,
    rows_layout: &Layout,
    values: &CudaStorage,
    values_layout: &Layout,
) -> Result<(CudaStorage, Shape)> {
    let (count, _) = rows_layout.shape().dims2()?;
    let (outputs, inputs) = values_layout.shape().dims2()?;
    let Some((start, end)) = values_layout.contiguous_offsets() else { bail!("products read contiguous matrices") };
    let rows = rows.to_dtype(rows_layout, values.dtype())?;
    let (device, shape) = (values.device(), [count, outputs, inputs]);
    let products = match values.dtype() {
        DType::BF16 => {
            let (rows, values) = (rows.as_cuda_slice::<bf16>()?, values.as_cuda_slice::<bf16>()?);
            gemm(device, &rows.slice(..), &values.slice(start..end), cudaDataType_t::CUDA_R_16BF, shape)?
        }
        DType::F32 => {
            let (rows, values) = (rows.as_cuda_slice::<f32>()?, values.as_cuda_slice::<f32>()?);
            gemm(device, &rows.slice(..), &values.slice(start..end), cudaDataType_t::CUDA_R_32F, shape)?
        }
        other => bail!("no products with weights of type {other:?}"),
    };
    Ok((CudaStorage::wrap_cuda_slice(products, device.clone()), Shape::from((count, outputs))))
}

/// To cuBLAS, whose matrices lie column by column, rows `[n, inputs]` are a matrix of `inputs` by `n`, weights
/// one of `inputs` by `outputs`, and what is wanted is the transpose of the weights times the rows.
fn gemm<T>(
    device: &CudaDevice,
    rows: &CudaView<'_, T>,
    values: &CudaView<'_, T>,
    kind: cudaDataType_t,
    [count, outputs, inputs]: [usize; 3],
) -> Result<CudaSlice<f32>> {
    if rows.len() != count * inputs || values.len() != outputs * inputs {
        bail!("a product of {} with {} elements is not one of {count} rows", rows.len(), values.len());
    }
    let narrow = |length: usize| i32::try_from(length).map_err(candle_core::Error::wrap);
    let (n, m, k) = (narrow(count)?, narrow(outputs)?, narrow(inputs)?);
    let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
    let mut products = device.alloc_zeros::<f32>(count * outputs)?;
    let (one, zero) = (1.0_f32, 0.0_f32);
    {
        let (rows, _reading_rows) = rows.device_ptr(&stream);
        let (values, _reading_values) = values.device_ptr(&stream);
        let (products, _writing) = products.device_ptr_mut(&stream);
        // SAFETY: the three pointers are those of live device memory on the handle's stream, of as many elements
        // of the types named as the shapes and leading dimensions say, checked above; with sums in
        // `CUBLAS_COMPUTE_32F` the two factors are f32 of the host, which outlive the call.
        #[expect(unsafe_code, reason = "cuBLAS is a C library")]
        unsafe {
            gemm_ex(
                *blas.handle(),
                cublasOperation_t::CUBLAS_OP_T,
                cublasOperation_t::CUBLAS_OP_N,
                m,
                n,
                k,
                from_ref(&one).cast::<c_void>(),
                values as *const c_void,
                kind,
                k,
                rows as *const c_void,
                kind,
                k,
                from_ref(&zero).cast::<c_void>(),
                products as *mut c_void,
                cudaDataType_t::CUDA_R_32F,
                m,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()?;
    }
    Ok(products)
}
