//! Who calls, what they may do, and for which program.
//!
//! Tokens are never kept: a credential is the SHA-256 of its token, and the look-up compares digests, so
//! its timing says nothing about a token.

use std::borrow::Cow;
use std::collections::HashMap;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use meed_schemas::ids::check_id;
use meed_schemas::program::BUILT_IN_NAME;
use sha2::{Digest, Sha256};

use crate::config::{CredentialSetting, SettingError};
use crate::route::{Access, Route, hexadecimal};
use meed_schemas::http::problem::{Kind, Problem};

/// The program of a request that names none.
pub const PROGRAM_DEFAULT: &str = BUILT_IN_NAME;
/// The header that names the program.
pub const PROGRAM_HEADER: HeaderName = HeaderName::from_static("program");
const ANY_PROGRAM: &str = "*";

/// What a credential may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Roles {
    /// Read balances, history and programs.
    pub read: bool,
    /// Earn, redeem, hold, reverse, enroll.
    pub operate: bool,
    /// Adjust, set tiers and status, change programs.
    pub admin: bool,
}

impl Roles {
    const ALL: Self = Self { read: true, operate: true, admin: true };

    fn allow(self, access: Access) -> bool {
        match access {
            Access::Open => true,
            Access::Read => self.read,
            Access::Operate => self.operate,
            Access::Admin => self.admin,
        }
    }
}

#[derive(Debug)]
struct Credential {
    program: String,
    roles: Roles,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The program for which the request acts.
    pub program: Cow<'a, str>,
    /// What the caller may do. A batch checks the role `admin` for each item that adjusts.
    pub roles: Roles,
}

/// The configured credentials, by the digest of their token.
#[derive(Debug, Default)]
pub struct Credentials {
    by_digest: HashMap<[u8; 32], Credential>,
}

impl Credentials {
    /// Checks and takes what is configured.
    pub fn new(settings: &[CredentialSetting]) -> Result<Self, SettingError> {
        let mut by_digest = HashMap::with_capacity(settings.len());
        for setting in settings {
            let refuse = |detail: String| Err(SettingError(format!("credential `{}`: {detail}", setting.name)));
            let Some(digest) = parse_digest(&setting.token_sha256) else {
                return refuse("`token_sha256` must be 64 hexadecimal digits".to_owned());
            };
            if setting.program != ANY_PROGRAM && !check_id(&setting.program) {
                return refuse("`program` must be a program id or `*`".to_owned());
            }
            let mut roles = Roles::default();
            for role in &setting.roles {
                match role.as_str() {
                    "read" => roles.read = true,
                    "operate" => roles.operate = true,
                    "admin" => roles.admin = true,
                    _ => return refuse(format!("there is no role `{role}`: read, operate, admin")),
                }
            }
            if roles == Roles::default() {
                return refuse("`roles` names none of read, operate, admin".to_owned());
            }
            let program = setting.program.clone();
            if by_digest.insert(digest, Credential { program, roles }).is_some() {
                return refuse("another credential has the same token".to_owned());
            }
        }
        Ok(Self { by_digest })
    }

    /// Whether nobody needs a credential.
    pub fn is_open(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Who calls this route, or why they may not.
    pub fn caller<'a>(&'a self, headers: &'a HeaderMap, route: &Route<'_>) -> Result<Caller<'a>, Problem> {
        let named = program_header(headers)?;
        if self.is_open() {
            let program = Cow::Borrowed(named.unwrap_or(PROGRAM_DEFAULT));
            return Ok(Caller { program, roles: Roles::ALL });
        }
        let credential = self.credential(headers)?;
        let forbidden = |detail: &'static str| Err(Problem::new(Kind::Forbidden, detail));
        if !credential.roles.allow(route.endpoint().access()) {
            return forbidden(match route.endpoint().access() {
                Access::Admin => "this needs the role `admin`",
                Access::Operate => "this needs the role `operate`",
                _ => "this needs the role `read`",
            });
        }
        let any = credential.program == ANY_PROGRAM;
        let program = if any { named.unwrap_or(PROGRAM_DEFAULT) } else { &credential.program };
        if named.is_some_and(|named| named != program) {
            return forbidden("this credential belongs to another program than the header Program names");
        }
        if let (false, Route::ProgramPut { program: other } | Route::ProgramGet { program: other }) = (any, route)
            && other != program
        {
            return forbidden("this credential belongs to another program");
        }
        Ok(Caller { program: Cow::Borrowed(program), roles: credential.roles })
    }

    fn credential(&self, headers: &HeaderMap) -> Result<&Credential, Problem> {
        let unauthorized = |detail: &'static str| Problem::new(Kind::Unauthorized, detail);
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let given = values.next().ok_or_else(|| unauthorized(Kind::Unauthorized.meaning()))?;
        if values.next().is_some() {
            return Err(unauthorized("send one Authorization header, not several"));
        }
        let (scheme, token) = given
            .as_bytes()
            .split_at_checked(7)
            .ok_or_else(|| unauthorized("the header Authorization must be `Bearer <token>`"))?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(unauthorized("the header Authorization must be `Bearer <token>`"));
        }
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        self.by_digest.get(&digest).ok_or_else(|| unauthorized("this node does not know the token"))
    }
}

/// The valid program id of the header; `None` when there is no header.
fn program_header(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(PROGRAM_HEADER).iter();
    let Some(given) = values.next() else { return Ok(None) };
    match given.to_str() {
        Ok(program) if values.next().is_none() && check_id(program) => Ok(Some(program)),
        _ => Err(Problem::invalid(
            "Program",
            "the header Program must be one program id: 1-128 printable ASCII characters without space / ? # %",
        )),
    }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = hexadecimal(digits[0])? << 4 | hexadecimal(digits[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::header::HeaderValue;

    fn setting(token: &str, program: &str, roles: &[&str]) -> CredentialSetting {
        let digest: [u8; 32] = Sha256::digest(token).into();
        CredentialSetting {
            name: token.to_owned(),
            token_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            program: program.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn decisions() {
        let credentials = Credentials::new(&[
            setting("till", "shop", &["operate"]),
            setting("desk", "*", &["read", "operate", "admin"]),
        ])
        .unwrap();
        let account = || "m".into();
        let earn = Route::Earn { account: account() };
        let adjust = Route::Adjust { account: account() };
        let balance = Route::Balance { account: account() };
        let decide = |pairs: &[(&'static str, &'static str)], route: &Route<'_>| {
            let headers = headers(pairs);
            let decided = credentials.caller(&headers, route);
            decided.map(|caller| caller.program.into_owned()).map_err(|problem| problem.kind)
        };
        let till = ("authorization", "Bearer till");
        let desk = ("authorization", "bearer  desk");
        assert_eq!(decide(&[till], &earn), Ok("shop".to_owned()));
        assert_eq!(decide(&[till, ("program", "shop")], &earn), Ok("shop".to_owned()));
        assert_eq!(decide(&[till, ("program", "other")], &earn), Err(Kind::Forbidden));
        assert_eq!(decide(&[till], &adjust), Err(Kind::Forbidden));
        assert_eq!(decide(&[till], &balance), Err(Kind::Forbidden));
        assert_eq!(decide(&[desk], &adjust), Ok("default".to_owned()));
        assert_eq!(decide(&[desk, ("program", "other")], &adjust), Ok("other".to_owned()));
        assert_eq!(decide(&[desk, ("program", "a b")], &adjust), Err(Kind::InvalidRequest));
        assert_eq!(decide(&[], &earn), Err(Kind::Unauthorized));
        assert_eq!(decide(&[till, desk], &earn), Err(Kind::Unauthorized));
        assert_eq!(decide(&[("authorization", "Bearer nobody")], &earn), Err(Kind::Unauthorized));
        assert_eq!(decide(&[("authorization", "Basic till")], &earn), Err(Kind::Unauthorized));
        assert_eq!(decide(&[("authorization", "x")], &earn), Err(Kind::Unauthorized));
        let admin = Credentials::new(&[setting("a", "shop", &["admin"])]).unwrap();
        let headers = headers(&[("authorization", "Bearer a")]);
        let put = |program: &'static str| admin.caller(&headers, &Route::ProgramPut { program: program.into() });
        assert!(put("shop").is_ok());
        assert_eq!(put("other").unwrap_err().kind, Kind::Forbidden);
    }

    #[test]
    fn an_open_node_takes_the_header() {
        let credentials = Credentials::default();
        let route = Route::Batch {};
        let named = headers(&[("program", "shop")]);
        assert_eq!(credentials.caller(&named, &route).unwrap().program, "shop");
        assert_eq!(credentials.caller(&HeaderMap::new(), &route).unwrap().program, "default");
        let twice = headers(&[("program", "a"), ("program", "a")]);
        assert_eq!(credentials.caller(&twice, &route).unwrap_err().kind, Kind::InvalidRequest);
    }

    #[test]
    fn bad_credentials_are_refused_by_name() {
        for (bad, part) in [
            (CredentialSetting { token_sha256: "ab".into(), ..setting("t", "p", &["read"]) }, "64 hexadecimal"),
            (setting("t", "a b", &["read"]), "program id"),
            (setting("t", "p", &["root"]), "no role `root`"),
            (setting("t", "p", &[]), "names none"),
        ] {
            let message = Credentials::new(&[bad]).unwrap_err().0;
            assert!(message.contains(part) && message.contains("`t`"), "{message}");
        }
        let twice = [setting("t", "p", &["read"]), setting("t", "q", &["read"])];
        assert!(Credentials::new(&twice).is_err());
    }
}
