#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::test_fixture;

fn fixed() -> Secrets {
    Secrets::from_random(&std::array::from_fn(|i| i as u8))
}

#[test]
fn what_was_created_is_loaded_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Secrets::load(dir.path(), 7).unwrap(), None);
    // A crash left a temporary file.
    fs::write(dir.path().join("secrets.new"), b"half").unwrap();
    let made = Secrets::create(dir.path(), 7).unwrap();
    assert_eq!(Secrets::load(dir.path(), 7).unwrap().unwrap(), made);
    assert_ne!(made.key_hash, made.fingerprint);
    assert!(matches!(Secrets::load(dir.path(), 8), Err(Error::Mismatch { .. })), "of another journal");
    let mode = fs::metadata(dir.path().join(SECRETS_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Secrets::create(dir.path(), 7), Err(Error::Mismatch { .. })));
    assert_eq!(Secrets::load(dir.path(), 7).unwrap().unwrap(), made);
    assert_eq!(format!("{made:?}"), "Secrets(..)");
}

#[test]
fn a_secret_is_made_whole_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.secret");
    fs::write(dir.path().join("link.secret.new"), b"ha").unwrap();
    assert!(keep_secret(&path, b"whole").unwrap());
    assert!(!keep_secret(&path, b"other").unwrap(), "there is one");
    assert_eq!(fs::read(&path).unwrap(), b"whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn every_flipped_bit_and_every_cut_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SECRETS_FILE);
    Secrets::create(dir.path(), 7).unwrap();
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Secrets::from_bytes(&bytes, 7, &path).unwrap_err();
        let in_format = (8..12).contains(&(bit / 8));
        assert!(
            matches!(error, Error::Damaged { .. }) || in_format && matches!(error, Error::NewerFormat { .. }),
            "bit {bit}: {error}"
        );
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(Secrets::load(dir.path(), 7), Err(Error::Damaged { .. })), "length {length}");
    }
}

impl Secrets {
    /// The position that has this redemption code; `None` when the text is not a code.
    fn position_of_code(&self, code: &str) -> Option<Position> {
        if code.len() != CODE_LENGTH {
            return None;
        }
        let packed = code.bytes().try_fold(0u64, |number, letter| {
            let digit = CODE_ALPHABET.iter().position(|&l| l == letter)?;
            number.checked_mul(30)?.checked_add(digit as u64)
        })?;
        let (mut left, mut right) = ((packed >> 32) as u32, packed as u32);
        for round in (0..FEISTEL_ROUNDS).rev() {
            (left, right) = (right ^ self.feistel_round(round, left), left);
        }
        Some(Position::from_u64(u64::from(left) << 32 | u64::from(right)))
    }
}

#[test]
fn codes_are_distinct_and_lead_back() {
    let secrets = fixed();
    let mut seen = HashSet::new();
    for sequence in 1..=100_000u64 {
        let position = Position::new((sequence % 16) as u16, sequence);
        let code = secrets.redemption_code(position);
        assert_eq!(secrets.position_of_code(&code), Some(position));
        assert!(code.len() == CODE_LENGTH && code.bytes().all(|b| CODE_ALPHABET.contains(&b)), "{code}");
        assert!(!code.contains(['0', 'O', '1', 'I', 'L', 'U']));
        assert!(seen.insert(code));
    }
    for packed in [0, 1, u64::MAX, 1 << 63] {
        let position = Position::from_u64(packed);
        assert_eq!(secrets.position_of_code(&secrets.redemption_code(position)), Some(position));
    }
    for no_code in ["", "2222222222222", "222222222222222", "22222222222220", "ZZZZZZZZZZZZZZ", "22222é222222"] {
        assert_eq!(secrets.position_of_code(no_code), None, "{no_code}");
    }
}

/// Codes are printed on receipts and hashes lie in records: their values for fixed keys never change.
#[test]
fn values_for_fixed_keys_are_pinned() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/secrets/values.json");
    let fixture: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let secrets = fixed();
    let mut checked = 0;
    for case in fixture["redemption_code"].as_array().unwrap() {
        let position = Position::parse(case["position"].as_str().unwrap()).unwrap();
        assert_eq!(secrets.redemption_code(position), case["code"].as_str().unwrap());
        checked += 1;
    }
    for case in fixture["hash_key"].as_array().unwrap() {
        let layer = case["layer"].as_u64().unwrap() as u8;
        let hash = secrets.hash_key(layer, case["key"].as_str().unwrap().as_bytes());
        assert_eq!(format!("{hash:032x}"), case["hash"].as_str().unwrap());
        checked += 1;
    }
    for case in fixture["fingerprint"].as_array().unwrap() {
        let hash = secrets.fingerprint(case["command"].as_str().unwrap().as_bytes());
        assert_eq!(format!("{hash:016x}"), case["hash"].as_str().unwrap());
        checked += 1;
    }
    assert!(checked >= 10);
}

/// Without the file every retry would be executed once more, and no alias would be found.
#[test]
fn the_file_is_pinned() {
    let fixture = test_fixture::whole("secrets/v1", &fixed().to_bytes(0x6d65_6564));
    assert_eq!(Secrets::from_bytes(&fixture, 0x6d65_6564, Path::new("x")).unwrap(), fixed());
}

#[test]
fn layers_keep_equal_keys_apart() {
    let secrets = fixed();
    assert_ne!(secrets.hash_key(0, b"A-1"), secrets.hash_key(1, b"A-1"));
    assert_ne!(secrets.hash_key(0, b"A-1"), secrets.hash_key(0, b"A-2"));
}
