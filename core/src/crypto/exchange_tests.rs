//! Published vectors and a live exchange with `snow` in both roles.

use super::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

fn hex(s: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(s.as_bytes()).unwrap()
}

fn secret(s: &str) -> TunnelSecret {
    TunnelSecret::from_secret(hex(s).try_into().unwrap())
}

/// Noise's Split(), to compare transport messages of published vectors.
fn split(finished: &Finished) -> (ChaCha20Poly1305, ChaCha20Poly1305) {
    let (a, b) = kdf::noise_hkdf(&finished.0.ck, &[]);
    (ChaCha20Poly1305::new(a.as_bytes().into()), ChaCha20Poly1305::new(b.as_bytes().into()))
}

struct Vector {
    prologue: &'static str,
    init_static: &'static str,
    init_ephemeral: &'static str,
    resp_static: &'static str,
    resp_ephemeral: &'static str,
    hash: Option<&'static str>,
    messages: &'static [(&'static str, &'static str)],
}

/// `Noise_IK_25519_ChaChaPoly_SHA256` of cacophony's and of snow's vector files.
const IK: [Vector; 2] = [
    Vector {
        prologue: "4a6f686e2047616c74",
        init_static: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        init_ephemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        resp_static: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        resp_ephemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        hash: Some("0b0f68fb0c27e03ce9b97565995ed4838cc0581b762ef72b062f6a546419fad7"),
        messages: &[
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944718da798efbcd915\
            28520204f904b9bd6c7413dccdc214d951e15253e39987f18146e8cd0873654207148333479d4d16\
            c289f0294b29960a72f48e0b7bba2e89083169825e59642148d492020664ccf7",
            ),
            (
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088435361e70b2ed446e6\
            c9ec387d1d6b3b840f194e373979d241b203c4acafccf5",
            ),
            ("462e20412e20486179656b", "050e9f3c8fac16b68dbce8f8c4bfbf6617c897f9ada4aa29aa19c8"),
            ("4361726c204d656e676572", "344233a6cabb7141d80f3da2fedc311d9646bbb0f505afe403a667"),
            (
                "4a65616e2d426170746973746520536179",
                "62cdeeb172ad7ade7aa7d9e069da5790f12331bfa00177787a1d0810c67dc3b2b4",
            ),
            (
                "457567656e2042f6686d20766f6e2042617765726b",
                "029bead1b40992327044d409d9a1f3ad8f36c3c452775d557e18bbeb2e8dfcead32d514024",
            ),
        ],
    },
    Vector {
        prologue: "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c\
            792066756e20616e6420626f72696e672e",
        init_static: "f49f93c5112c0787acc808d61716d7e090e076a58f15a3f78d92773f8dcb473b",
        init_ephemeral: "dae68498c41315cff7e4a34dded8d973199d8f0cf3fcb8b6651c169de77de8be",
        resp_static: "b790546f98b1e933c48cd01f17e7b281469d46fcacc9a3b584ae65b1d6272e8e",
        resp_ephemeral: "c0875a5b59c8492bd2135e5432d7d484f938e0a1f5009428c4bcb70b2f69f69f",
        hash: None,
        messages: &[
            (
                "95a8f51c435a9530ff1f30868ed7b23ec952eb513c26a0774fed82d2978a8c81",
                "6d21fec9141f3f37cc464e936a48b2d9521b5a44e0f3d960895d3c3fba30282f731f445c25e898e2\
            534ac0536715b24308c108fc46bd260c887b36c3f68e3a05654fc8295c068ed53fb2022560961224\
            e0b10b0835e1efc82fc587cd50f7178fe3d9eb06e0351c6e7334162c10bed670bfa2a105f7b2768a\
            140b3fd597782601",
            ),
            (
                "b866b807a6d8b83182b884dbfedc861843c5082bd6e480cb54e4245a72083041",
                "e64e1fb8701c4f4bc3850b255fea657d4d835338b059c89acc99628fbe52473b41a4e79e3c1e6abc\
            46bf80f078a005e15d8a3e04f989af3e6cb99b52031165006163ac3e17b928af8c116009d7bf4fb2",
            ),
            (
                "e3a4937faef391028f759758b428b57652e0069a8dee64dfed01b60846938740",
                "2bebe19102169cdfe79cf41e38930bfd20a5b2fc78ccf33e853ddd939c0983174656eb27b61464a6\
            07762848892ca1c0",
            ),
            (
                "693972f27b0cb98aeac1fb54d782125431e7540e0cb2fa882cf51a8184d724fd",
                "c7c56da33b45d12f4754e17978bd49999c9c8f51d00db460f902aba2e6e245d0c46662f507915de8\
            596f43b1d175f1db",
            ),
        ],
    },
];

/// `Noise_X_25519_ChaChaPoly_SHA256` of the same files.
const X: [Vector; 2] = [
    Vector {
        prologue: "4a6f686e2047616c74",
        init_static: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        init_ephemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        resp_static: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        resp_ephemeral: "",
        hash: Some("e6adfaa886b76b16b2aa79c54434c77fed488c8aa66d2c545608f4352f70f664"),
        messages: &[
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79446c15957a594079a5\
            bdeae05d01e089fbb7cc6ea2ecfd209b941f73c9235213bc875f7283e9e17ebdac8112627915b455\
            fdc3aaa6de60cb3c98302f370fdb03ea850b9b0cf22fec13e4dc0707245c8721",
            ),
            (
                "4d757272617920526f746862617264",
                "9868def631af6242aaf00c35218275832d8d022af1c67b9fc5e8ba90f4d91b",
            ),
            ("462e20412e20486179656b", "9fdd2576d757f880de49b32b80abf53afec16ddc86769f0e92daff"),
            ("4361726c204d656e676572", "0e5a48d10dfd648145b78012bc9edc8440cbb6e9e237eb8d5b9c25"),
            (
                "4a65616e2d426170746973746520536179",
                "11a3818b2523d06a64168b814ff680e60930e7145378cd813055f00e1725b5f9e8",
            ),
            (
                "457567656e2042f6686d20766f6e2042617765726b",
                "184a48a82f921ee36371d880e2abd177f8967349e992958c66fa51bff262a37845a200d26a",
            ),
        ],
    },
    Vector {
        prologue: "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c\
            792066756e20616e6420626f72696e672e",
        init_static: "a86077a7e90ed6f510f46d3aae9c522a11452ee7fae7f1a31f5063f07fa71ea5",
        init_ephemeral: "ba1adcceefcc42688a32385f15d8d21d872ffca56121e9e457be7d54143ca7ea",
        resp_static: "f215818f70d5163ebc2b44501fbbd9c326eb75e277d2c43450465590a6c1a372",
        resp_ephemeral: "d12f09d8034286c1bbacac877c85efbb74795dc34e03d4ea6ed22a6a2463bd98",
        hash: None,
        messages: &[
            (
                "42a8ec6059c4db88532da153e56c69e06c031e4ad09f7c94835272f415253ef0",
                "0a191bc7600105e5d87a8942ae85ef4e56e00e41f02c56ffddf03f8c4faf38619bacc88d5e258b80\
            654ffedd53e81d24a0d442e8b70d6ded0f45913dc53949b945b4464f7f325d7b66e6609b7dea79cd\
            5b379b135daeeb4e9e95e97ddc507330bbadab51fb70714fe3d7a4c19c6366ecc0838ec96183a312\
            1a662b34e6b061d6",
            ),
            (
                "1c999f353f98fdb30d2b79d871cd64228abbdf47995c9d350ae8fd22fb41216d",
                "9a7876965b822b1933535a93ac3d9fd5c495f3027aaafce38ebfe2965da10aa84a0c7c5922831c79\
            931a4dd3846470d4",
            ),
        ],
    },
];

fn transport(
    ciphers: &(ChaCha20Poly1305, ChaCha20Poly1305),
    messages: &[(&str, &str)],
    both: bool,
) {
    for (i, (payload, ciphertext)) in messages.iter().enumerate() {
        let (cipher, n) = match both {
            true if i % 2 == 1 => (&ciphers.1, i / 2),
            true => (&ciphers.0, i / 2),
            false => (&ciphers.0, i),
        };
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(n as u64).to_le_bytes());
        let mut text = hex(payload);
        let tag =
            cipher.encrypt_inout_detached(&nonce.into(), &[], text.as_mut_slice().into()).unwrap();
        text.extend_from_slice(&tag);
        assert_eq!(text, hex(ciphertext));
    }
}

#[test]
fn published_ik_vectors() {
    for v in &IK {
        let (i, r) = (secret(v.init_static), secret(v.resp_static));
        let prologue = hex(v.prologue);
        let mut msg = message(MESSAGE1_PAYLOAD, &hex(v.messages[0].0));
        let e = secret(v.init_ephemeral);
        let a = Initiator::write_message1(Pattern::Ik, &[&prologue], &i, &r.public(), e, &mut msg)
            .unwrap();
        assert_eq!(msg, hex(v.messages[0].1));
        let b = Responder::read_message1(Pattern::Ik, &[&prologue], &r, &mut msg).unwrap();
        assert_eq!(b.remote_static(), i.public());
        assert_eq!(msg[MESSAGE1_PAYLOAD..msg.len() - 16], hex(v.messages[0].0));
        assert_eq!(a.stale_key().as_bytes(), b.stale_key().as_bytes());
        let mut msg = message(MESSAGE2_PAYLOAD, &hex(v.messages[1].0));
        let b = b.write_message2(secret(v.resp_ephemeral), &mut msg).unwrap();
        assert_eq!(msg, hex(v.messages[1].1));
        let a = a.read_message2(&i, &mut msg).unwrap();
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.prk().as_bytes(), b.prk().as_bytes());
        if let Some(hash) = v.hash {
            assert_eq!(a.hash()[..], hex(hash));
        }
        transport(&split(&a), &v.messages[2..], true);
    }
}

#[test]
fn published_x_vectors() {
    for v in &X {
        let (i, r) = (secret(v.init_static), secret(v.resp_static));
        let prologue = hex(v.prologue);
        let mut msg = message(MESSAGE1_PAYLOAD, &hex(v.messages[0].0));
        seal_x(&[&prologue], &i, &r.public(), secret(v.init_ephemeral), &mut msg).unwrap();
        assert_eq!(msg, hex(v.messages[0].1));
        let (from, payload) = open_x(&[&prologue], &r, &mut msg).unwrap();
        assert_eq!(from, i.public());
        assert_eq!(payload, hex(v.messages[0].0));
    }
}

/// snow's own primitives with a generator of ours: its default one wants the system's.
struct Resolver;

struct Seeded(crate::rng::Rng);

impl snow::types::Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        dest.fill_with(|| self.0.bytes::<1>()[0]);
        Ok(())
    }
}

impl snow::resolvers::CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        Some(Box::new(Seeded(crate::rng::Rng::new([77; 32]))))
    }
    fn resolve_dh(&self, choice: &snow::params::DHChoice) -> Option<Box<dyn snow::types::Dh>> {
        snow::resolvers::DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(
        &self,
        choice: &snow::params::HashChoice,
    ) -> Option<Box<dyn snow::types::Hash>> {
        snow::resolvers::DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(
        &self,
        choice: &snow::params::CipherChoice,
    ) -> Option<Box<dyn snow::types::Cipher>> {
        snow::resolvers::DefaultResolver.resolve_cipher(choice)
    }
}

fn snow_builder<'a>(pattern: &str, prologue: &'a [u8], s: &'a [u8]) -> snow::Builder<'a> {
    let name: String = std::format!("Noise_{pattern}_25519_ChaChaPoly_SHA256");
    snow::Builder::with_resolver(name.parse().unwrap(), Box::new(Resolver))
        .prologue(prologue)
        .unwrap()
        .local_private_key(s)
        .unwrap()
}

fn message(at: usize, payload: &[u8]) -> Vec<u8> {
    let mut msg = std::vec![0; at];
    msg.extend(payload);
    msg.extend([0; 16]);
    msg
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn we_initiate_towards_snow(
        keys: [[u8; 32]; 3], prologue: [u8; 24], p1: [u8; 44], p2: [u8; 32],
    ) {
        let (i, r) = (TunnelSecret::from_secret(keys[0]), TunnelSecret::from_secret(keys[1]));
        let mut msg = message(MESSAGE1_PAYLOAD, &p1);
        let e = TunnelSecret::from_secret(keys[2]);
        let parts = [&prologue[..16], &prologue[16..]];
        let ours =
            Initiator::write_message1(Pattern::Ik, &parts, &i, &r.public(), e, &mut msg).unwrap();
        let mut snow =
            snow_builder("IK", &prologue, &keys[1]).build_responder().unwrap();
        let mut buf = [0; 400];
        let n = snow.read_message(&msg, &mut buf).unwrap();
        prop_assert_eq!(&buf[..n], &p1[..]);
        prop_assert_eq!(snow.get_remote_static().unwrap(), &i.public().0[..]);
        let n = snow.write_message(&p2, &mut buf).unwrap();
        let finished = ours.read_message2(&i, &mut buf[..n]).unwrap();
        prop_assert_eq!(&buf[MESSAGE2_PAYLOAD..n - 16], &p2[..]);
        prop_assert_eq!(&finished.hash()[..], snow.get_handshake_hash());
        let mut snow = snow.into_transport_mode().unwrap();
        let n = snow.write_message(b"from snow", &mut buf).unwrap();
        let mut ours = b"from snow".to_vec();
        let tag = split(&finished).1
            .encrypt_inout_detached(&[0; 12].into(), &[], ours.as_mut_slice().into()).unwrap();
        ours.extend_from_slice(&tag);
        prop_assert_eq!(&buf[..n], &ours[..]);
    }

    #[test]
    fn snow_initiates_towards_us(
        keys: [[u8; 32]; 3], prologue: [u8; 24], p1: [u8; 44], p2: [u8; 32],
    ) {
        let (i, r) = (TunnelSecret::from_secret(keys[0]), TunnelSecret::from_secret(keys[1]));
        let mut snow = snow_builder("IK", &prologue, &keys[0])
            .remote_public_key(&r.public().0).unwrap()
            .build_initiator().unwrap();
        let mut buf = [0; 400];
        let n = snow.write_message(&p1, &mut buf).unwrap();
        let ours =
            Responder::read_message1(Pattern::Ik, &[&prologue], &r, &mut buf[..n]).unwrap();
        prop_assert_eq!(&buf[MESSAGE1_PAYLOAD..n - 16], &p1[..]);
        prop_assert_eq!(ours.remote_static(), i.public());
        let mut msg = message(MESSAGE2_PAYLOAD, &p2);
        let finished =
            ours.write_message2(TunnelSecret::from_secret(keys[2]), &mut msg).unwrap();
        let n = snow.read_message(&msg, &mut buf).unwrap();
        prop_assert_eq!(&buf[..n], &p2[..]);
        prop_assert_eq!(&finished.hash()[..], snow.get_handshake_hash());
    }

    #[test]
    fn sealed_requests_agree_with_snow(keys: [[u8; 32]; 3], payload: [u8; 100]) {
        let (i, r) = (TunnelSecret::from_secret(keys[0]), TunnelSecret::from_secret(keys[1]));
        let mut msg = message(MESSAGE1_PAYLOAD, &payload);
        seal_x(&[b"p"], &i, &r.public(), TunnelSecret::from_secret(keys[2]), &mut msg).unwrap();
        let mut snow = snow_builder("X", b"p", &keys[1]).build_responder().unwrap();
        let mut buf = [0; 400];
        let n = snow.read_message(&msg, &mut buf).unwrap();
        prop_assert_eq!(&buf[..n], &payload[..]);
        prop_assert_eq!(snow.get_remote_static().unwrap(), &i.public().0[..]);
        let mut snow = snow_builder("X", b"p", &keys[0])
            .remote_public_key(&r.public().0).unwrap()
            .build_initiator().unwrap();
        let n = snow.write_message(&payload, &mut buf).unwrap();
        let (from, opened) = open_x(&[b"p"], &r, &mut buf[..n]).unwrap();
        prop_assert_eq!(from, i.public());
        prop_assert_eq!(opened, &payload[..]);
        prop_assert_eq!(open_x(&[b"q"], &r, &mut msg), Err(ExchangeError));
    }

    #[test]
    fn any_flipped_bit_is_rejected(bit: usize) {
        let (i, r) = (TunnelSecret::from_secret([1; 32]), TunnelSecret::from_secret([2; 32]));
        let e = || TunnelSecret::from_secret([3; 32]);
        let mut msg = message(MESSAGE1_PAYLOAD, &[7; 44]);
        let a = Initiator::write_message1(Pattern::Ik, &[b"p"], &i, &r.public(), e(), &mut msg)
            .unwrap();
        let mut forged = msg.clone();
        let at = bit % (msg.len() * 8);
        forged[at / 8] ^= 1 << (at % 8);
        // Bit 255 of an X25519 key is masked by RFC 7748, but it is in the transcript.
        prop_assert!(Responder::read_message1(Pattern::Ik, &[b"p"], &r, &mut forged).is_err());
        let b = Responder::read_message1(Pattern::Ik, &[b"p"], &r, &mut msg).unwrap();
        let mut msg = message(MESSAGE2_PAYLOAD, &[8; 32]);
        b.write_message2(e(), &mut msg).unwrap();
        let mut forged = msg.clone();
        let at = bit % (msg.len() * 8);
        forged[at / 8] ^= 1 << (at % 8);
        prop_assert!(a.read_message2(&i, &mut forged).is_err());
        prop_assert!(a.read_message2(&i, &mut msg).is_ok());
    }

    #[test]
    fn any_bytes_are_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let r = TunnelSecret::from_secret([2; 32]);
        prop_assert!(Responder::read_message1(Pattern::Ik, &[], &r, &mut bytes).is_err());
    }
}

#[test]
fn small_order_points_are_refused() {
    let (i, r) = (TunnelSecret::from_secret([1; 32]), TunnelSecret::from_secret([2; 32]));
    let mut msg = message(MESSAGE1_PAYLOAD, &[]);
    let e = TunnelSecret::from_secret([3; 32]);
    let zero = TunnelKey([0; 32]);
    assert!(Initiator::write_message1(Pattern::Ik, &[], &i, &zero, e, &mut msg).is_err());
    let mut msg = message(MESSAGE1_PAYLOAD, &[]);
    assert!(Responder::read_message1(Pattern::Ik, &[], &r, &mut msg).is_err());
}
