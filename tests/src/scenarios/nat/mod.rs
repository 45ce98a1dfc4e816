// SPDX-License-Identifier: GPL-2.0-only
//! Connections whose ends see different addresses, because rules on the way rewrite them.

pub mod forward;
pub mod redirect;
mod site;
pub mod views;
