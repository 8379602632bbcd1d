//! What every adapter's driver does, on smol's global executor.

use pilot_smol::Smol;
use smol::block_on;

pilot_core::driver_conformance!(Smol, block_on);
