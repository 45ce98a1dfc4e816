// SPDX-License-Identifier: GPL-2.0-only
//! What the policy program's frozen data says: what is understood is written back as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_splice_fuzz::policy::Policy;

fuzz_target!(|bytes: &[u8]| {
    if let Some(policy) = Policy::from_bytes(bytes) {
        let again = Policy::from_bytes(&policy.to_bytes());
        assert_eq!(again, Some(policy));
    }
    // Most inputs have another length: this one has the right one.
    let mut whole = Policy::default().to_bytes();
    for (to, from) in whole[4..].iter_mut().zip(bytes) {
        *to = *from;
    }
    if let Some(policy) = Policy::from_bytes(&whole) {
        assert_eq!(Policy::from_bytes(&policy.to_bytes()), Some(policy));
    }
});
