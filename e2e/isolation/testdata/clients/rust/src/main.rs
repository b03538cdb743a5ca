//! Asks for the URL in URL with ureq, with the token as a bearer, and prints the
//! answer. The argument says whether to take a proxy from the environment, which
//! ureq does only when it is told to.
use std::{env, error::Error, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("URL")?;
    let mut builder = ureq::builder().tls_connector(Arc::new(native_tls::TlsConnector::new()?));
    if env::args().nth(1).as_deref() == Some("proxy") {
        builder = builder.proxy(ureq::Proxy::new(env::var("HTTPS_PROXY")?)?);
    }
    let answer = builder
        .build()
        .get(&url)
        .set("Authorization", &format!("Bearer {}", env::var("API_KEY")?))
        .call()?;
    print!("{}", answer.into_string()?);
    Ok(())
}
